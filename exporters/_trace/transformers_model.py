"""Load a transformers model in float32 from a resolved source: no remote code, no pickles, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.core import Source
from edgekit.errors import BundleError, UnsupportedError

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


def load(model_class: Any, source: Source, config: Any, **told: Any) -> tuple[Any, list[str]]:
    """The model, ready to run, and the names of weights that it has and the files have not.

    Made-up weights, the same for every call, where the source is `random`. Raises what transformers raises.
    """
    import torch

    if source.random:
        torch.manual_seed(0)
        return model_class.from_config(config, **told).float().eval(), []
    model, found = model_class.from_pretrained(
        str(source.folder),
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **told,
    )
    return model.eval(), sorted(found["missing_keys"])


def check_weights(missing: Sequence[str], task: str) -> None:
    """Raise UnsupportedError where the files lack weights that the task needs."""
    if missing:
        raise UnsupportedError(
            f"the weights have no {missing[0]!r}, so this model was not trained for {task}",
            hint="choose the task it was trained for with --task",
            missing=list(missing[:20]),
        )
