"""Load a transformers model in float32 from a resolved source: no remote code, no pickles, no network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.core import Source
from edgekit.errors import BundleError, EdgeKitError, UnsupportedError
from edgekit.source import weights

from .._decoder.config import AGAIN


def config_of(source: Source) -> Any:
    """From the sanitized config, never from the file: a config can name code and other repositories.

    Raises BundleError for one that transformers does not take.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**source.config)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise BundleError(
            f"transformers cannot read this config.json of {source.arch}",
            hint=AGAIN,
            cause=f"{type(error).__name__}: {error}"[:2000],
        ) from error


def concrete(auto_class: Any, config: Any, task: str) -> Any:
    """The class that one of transformers' Auto classes takes for this config. Raises UnsupportedError without one."""
    try:
        return auto_class._model_mapping[type(config)]
    except KeyError:
        raise UnsupportedError(
            f"transformers has no {config.model_type} model for {task}",
            hint="leave --task out, or choose a model of another architecture",
        ) from None


def load(model_class: Any, source: Source, config: Any, **options: Any) -> tuple[Any, list[str]]:
    """The model, ready to run, and the names of weights that it has and the files have not.

    Made-up weights, the same for every call, where the source is `random`. The only place that calls from_pretrained:
    whatever it raises is an EdgeKitError here, UnsupportedError for a config and BundleError for files.
    """
    import torch

    if source.random:
        torch.manual_seed(0)
        with _explained(source):
            return model_class.from_config(config, **options).float().eval(), []
    with _explained(source):
        model, report = model_class.from_pretrained(
            str(source.folder),
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused here
            key_mapping=_unwrapped(source),
            **options,
        )
    for name, stored, needed in sorted(report["mismatched_keys"])[:1]:
        raise weights.misfit(name, stored, needed)
    return model.eval(), sorted(report["missing_keys"])


def check_weights(absent: Sequence[str], model: Any, task: str, source: Source, unneeded: Sequence[str] = ()) -> None:
    """Raise where the files lack weights that the task needs: BundleError for some of a part that they hold, or all of
    them, UnsupportedError for a whole part, which is then the head of another task. `unneeded` may be absent.
    """
    needed = [name for name in absent if name not in unneeded]
    if not needed:
        return
    # By the model's names: transformers renames tensors of older files as it loads them.
    body = model.base_model_prefix + "."
    loaded = {_part(name, body) for name, _ in model.named_parameters() if name not in absent}
    lost = next((name for name in needed if not loaded or _part(name, body) in loaded), None)
    if lost is not None:
        raise weights.missing(lost, weights.names(source.folder))
    name = next(iter(source.config.get("architectures") or ()), "")
    own = f"config.json names {name}: leave --task out, or " if name else ""
    raise UnsupportedError(
        f"the weights have no {needed[0]!r}, so this model was not trained for {task}",
        hint=f"{own}choose the task it was trained for with --task",
        missing=needed[:20],
    )


def _part(name: str, body: str) -> str:
    """`classifier` of `classifier.bias`, `encoder` of `bert.encoder.layer.0…`."""
    return name.removeprefix(body).partition(".")[0]


def _unwrapped(source: Source) -> dict[str, str] | None:
    """The renaming that removes what torch.compile or DataParallel put before every name; None where nothing did."""
    wrapper = weights.wrapper(weights.names(source.folder))
    return {f"^{re.escape(wrapper)}": ""} if wrapper else None


@contextlib.contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Whatever transformers raises as an EdgeKitError with its class; a lack of memory and our own errors pass."""
    try:
        yield
    except (EdgeKitError, MemoryError):
        raise
    except Exception as error:  # a model's own code may trip over anything
        if "alloc" in str(error):  # how torch says that memory ran out
            raise
        cause = f"{type(error).__name__}: {error}"[:2000]
        if source.random:
            what = f"transformers makes no model of this config of {source.arch}"
            raise UnsupportedError(what, hint="choose a model of another architecture", cause=cause) from error
        raise BundleError(
            f"transformers cannot load this {source.arch} model ({type(error).__name__}: {_first_line(error)})",
            hint="config.json and the weights may belong to different models: download or save both again",
            cause=cause,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason"])[0][:200]
