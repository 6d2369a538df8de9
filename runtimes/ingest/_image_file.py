"""Load an image as upright RGB uint8: from files, bytes, Pillow images and arrays.

Knows formats, colour modes, EXIF orientation and limits. Does not know what a model wants: `image_steps` does that.
The header is checked before any pixel is decoded: a small file may claim a picture that fills the memory.
"""

from __future__ import annotations

import base64
import os
import stat
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgekit import distribution
from edgekit.errors import DeviceError, InputError
from edgekit.machine import system_calls

if TYPE_CHECKING:
    from edgekit.core import Array

PIXELS = 64_000_000  # of one image, before and after resizing: 64 megapixels
FILE_BYTES = 256 << 20  # of an image file; 64 megapixels of 32-bit BMP fit
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")  # and 16-bit gray, I;16
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Pillow's Transpose
# What Pillow raises for damaged files: each seen when bytes of good files were changed, or written in its readers.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
URL = "data:image/"
KINDS = "give a path, a file's bytes, a Pillow image, or an array uint8 or float32 (0 to 1) of (h, w, 3) or (h, w)"


def pillow() -> Any:
    """The module PIL.Image. Raises DeviceError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DeviceError(
            "reading images needs Pillow, which is not installed", hint=distribution.install("vision")
        ) from error
    return Image


def is_pillow(item: object) -> bool:
    """Whether that is a Pillow image; imports nothing, as such an image's maker has."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, module.Image)


def paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files directly in a folder, by name; hidden files are left out. Raises InputError where none is."""
    try:
        files = sorted(Path(folder).iterdir())
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(
            f"{str(folder)!r} cannot be listed: {getattr(error, 'strerror', None) or error}",
            hint="give a folder of PNG, JPEG, WEBP or BMP files",
        ) from None
    images = [file for file in files if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()]
    if not images:
        raise InputError(
            f"{str(folder)!r} has no images", hint=f"files must end in {', '.join(SUFFIXES)}; subfolders are not read"
        )
    return images


def name_of(item: object, position: int) -> str:
    """What errors call an item of a call: its place, and its path where it has one."""
    place = f"images[{position}]"
    if not isinstance(item, (str, os.PathLike)) or str(item).startswith(URL):
        return place
    return f"{place}: {str(item)!r}"


def picture(item: object, name: str) -> Any:
    """The item as an upright Pillow image in RGB; `name` is what errors call it. Raises InputError, DeviceError."""
    image_module = pillow()
    if isinstance(item, np.ndarray):
        return _rgb(image_module.fromarray(_levels(item, name)), name)
    if isinstance(item, str) and item.startswith(URL):
        item = _from_url(item, name)
    if isinstance(item, (str, os.PathLike)):
        with _file(Path(item), name) as file:
            return _decoded(file, name)
    if isinstance(item, (bytes, bytearray, memoryview)):
        if len(item) > FILE_BYTES:
            raise InputError(f"{name} has {len(item)} bytes, and {FILE_BYTES} are allowed", hint="give a smaller file")
        return _decoded(BytesIO(item), name)
    if is_pillow(item):
        return _from_pillow(item, name)
    raise InputError(f"{name} is {type(item).__name__}, not an image", hint=KINDS)


def _from_url(url: str, name: str) -> bytes:
    """The file in a data: URL in base64."""
    head, _, data = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not in base64")
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InputError(f"{name} is a data: URL that cannot be read: {error}", hint=KINDS) from error


def _file(path: Path, name: str) -> IO[bytes]:
    """The file, open for reading. A pipe would keep us waiting, and reading a device may do anything."""
    try:
        _regular(os.stat(path), name)
        file = os.fdopen(os.open(path, system_calls.flags("O_RDONLY", "O_NONBLOCK")), "rb")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read: {why}", hint="check the path") from None
    try:
        _regular(os.fstat(file.fileno()), name)  # again: it may be another file by now
    except InputError:
        file.close()
        raise
    return file


def _regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a folder", hint="give the files in it, one by one")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is not a regular file", hint="copy it to a file, or give its bytes")
    if status.st_size > FILE_BYTES:
        raise InputError(
            f"{name} has {status.st_size} bytes, and {FILE_BYTES} are allowed",
            hint="save it smaller, as JPEG for example",
        )


def _decoded(file: IO[bytes], name: str) -> Any:
    """The first picture in an image file, upright, in RGB."""
    image_module = pillow()
    with _guarded(name):
        try:
            image = image_module.open(file, formats=FORMATS)
        except image_module.UnidentifiedImageError:
            raise InputError(
                f"{name} is not a PNG, JPEG, WEBP or BMP file, or its header is damaged",
                hint="convert it to PNG or JPEG",
            ) from None
        _refuse_large(image.width, image.height, name)
        image.load()
        return _rgb(_upright(image), name)


def _from_pillow(image: Any, name: str) -> Any:
    _refuse_large(image.width, image.height, name)
    with _guarded(name), _ONE_AT_A_TIME:  # two threads that load one image would read one file at once
        image.load()
        upright = _upright(image)
    with _guarded(name):
        return _rgb(upright, name)


def _refuse_large(width: int, height: int, name: str) -> None:
    if not width or not height:
        raise InputError(f"{name} has no pixels: {width} x {height}", hint="give an image of at least 1 x 1")
    if width * height > PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name} has {size}, and {PIXELS // 10**6} megapixels are allowed", hint="make it smaller first")


def _upright(image: Any) -> Any:
    method = UPRIGHT.get(image.getexif().get(ORIENTATION))
    return image if method is None else image.transpose(method)


def _rgb(image: Any, name: str) -> Any:
    """RGB, with what is transparent laid on white."""
    image_module = pillow()
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        clear = levels == image.info.get("transparency", -1)
        return image_module.fromarray(np.where(clear, 255, levels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in MODES:
        raise InputError(
            f"{name} is a Pillow image of mode {image.mode!r}", hint="scale it to 0..255 and give image.convert('RGB')"
        )
    if image.mode[-1] in "Aa" or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = image_module.new("RGBA", image.size, (255, 255, 255, 255))
        return image_module.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() alone would copy what is RGB


def _levels(array: Array, name: str) -> Array:
    """uint8 levels (h, w, 3) or (h, w) of an array that holds levels or 0..1."""
    shape = list(array.shape)
    if array.dtype not in (np.uint8, np.float32):
        raise InputError(
            f"{name} is an array of {array.dtype.name}", hint="give uint8 (0 to 255) or float32 (0 to 1): astype()"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] != 3):
        raise InputError(f"{name} is an array of shape {shape}", hint="give (h, w, 3) in RGB order, or gray (h, w)")
    _refuse_large(shape[1], shape[0], name)
    if array.dtype == np.uint8:
        return array
    if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        raise InputError(f"{name} has values that are NaN or outside 0..1", hint="divide levels of 0..255 by 255")
    levels: Array = np.rint(array * 255).astype(np.uint8)
    return levels


@contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Runs Pillow with its failures as InputError and without its warnings."""
    try:
        with _QUIET:
            yield
    except pillow().DecompressionBombError as error:  # its own limit, at opening: 179 megapixels unless changed
        raise _too_large(name, "far too many pixels") from error
    except DAMAGE as error:
        raise InputError(
            f"{name} cannot be decoded: the file is damaged or cut short",
            hint="save or download it again",
            cause=f"{type(error).__name__}: {error}"[:2000],
        ) from error


class _Quiet:
    """Ignores warnings of Pillow's modules while any thread is inside. Python's own context serves one thread only."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()
_ONE_AT_A_TIME = threading.Lock()
