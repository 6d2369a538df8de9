"""Every package that a device needs has a build for each system of the README: the package index is asked for names.

Only lists of file names are read. The index is the one that pip uses.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

import pytest

import edgekit

pytestmark = pytest.mark.slow

PROJECT = Path(edgekit.__file__).parent.parent / "pyproject.toml"
# A wheel's last tag for each system: PEP 600, and what macOS and Windows are called.
SYSTEMS = {
    "Linux x86-64": r"manylinux\w*_x86_64",
    "Linux Arm": r"manylinux\w*_aarch64",
    "macOS Arm": r"macosx_\w+_(arm64|universal2)",
    "Windows x86-64": r"win_amd64",
}
PYTHON = r"(py3|cp3\d+)-(none|abi3|cp3\d+)"
PATIENCE = 30.0  # seconds
HREF = re.compile(r"""<a\s[^>]*>\s*([^<]+?)\s*</a>""")


def needed() -> list[str]:
    """The names of what a device needs, and of the second engine."""
    if not PROJECT.is_file():
        return []
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["openvino"]]
    return [re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0] for line in lines]


@cache
def index() -> str:
    """The URL of pip's index."""
    words = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout.strip() if done.returncode == 0 else "https://pypi.org/simple").rstrip("/")


@cache
def files(package: str) -> tuple[str, ...]:
    """The names of all files that the index has of a package; skips where it cannot be reached."""
    request = urllib.request.Request(f"{index()}/{package}/", headers={"Accept": "text/html"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            page = answer.read().decode("utf-8", "replace")
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    return tuple(html.unescape(name) for name in HREF.findall(page))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("package", needed())
def test_there_is_a_wheel(package: str, system: str) -> None:
    """Of a version that is allowed here; pure Python counts everywhere."""
    installed = newest(package)
    wheels = [name for name in files(package) if name.endswith(".whl") and name.split("-")[1] == installed]
    assert wheels, f"the index has no wheel of {package} {installed}"
    assert any(fits(name, system) for name in wheels), wheels


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", "Linux Arm"),
        ("tokenizers-0.22.2-cp39-abi3-win_amd64.whl", "Windows x86-64"),
        ("numpy-2.4.6-cp311-cp311-macosx_11_0_arm64.whl", "macOS Arm"),
    ],
)
def test_a_wheel_is_for_one_system(name: str, system: str) -> None:
    assert [each for each in SYSTEMS if fits(name, each)] == [system]
    assert all(fits("click-8.5.1-py3-none-any.whl", each) for each in SYSTEMS)


def fits(name: str, system: str) -> bool:
    """Whether a wheel of this name can be installed there."""
    return re.search(rf"-{PYTHON}-([\w.]*\.)?({SYSTEMS[system]}|any)(\.[\w.]*)?\.whl$", name) is not None


def newest(package: str) -> str:
    """The version that is installed here, or the newest of the index."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return max((name.split("-")[1] for name in files(package) if name.endswith(".whl")), key=_numbers)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", text))
