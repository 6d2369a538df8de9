"""A decoder in ONNX Runtime's CUDA provider: its caches stay on the GPU, and a step sends ids there and logits back.

Knows what that provider does not check by itself, and what it cannot compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError

from .._ort.decoder import DecoderSession, Memory

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Graph


CHUNK = 512  # tokens of a prompt at once: more tokens cost a GPU hardly more time


class CudaDecoderSession(DecoderSession):
    """As DecoderSession, with the checks that the GPU's kernels do not make."""

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        provider_options: dict[str, Any] | None = None,
        memory: Memory | None = None,
    ) -> None:
        held = [state.into for state in graph.states if state.out is None]
        if held:
            raise UnsupportedError(
                f"cuda does not hold {held[0]}, which is given once", hint="export it for cpu or openvino"
            )
        super().__init__(folder, graph, provider, options, provider_options, memory=memory)
        self.chunk_tokens = CHUNK

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """As DecoderSession.run, and with its errors: the GPU would take a token that is not there for zeros.

        Where no logits are wanted, one is computed: its kernels fail for none.
        """
        ids, wanted = feeds.get("input_ids"), feeds.get("logit_positions")
        words = int(self._vocabulary.shape[2])
        if ids is not None and ids.dtype == np.int64 and ids.size and not 0 <= ids.min() <= ids.max() < words:
            strange = ids[(ids < 0) | (ids >= words)][0]
            raise InputError(
                f"there is no such token as {strange}: this model has {words}",
                hint="check that the tokenizer is this model's",
            )
        if wanted is None or wanted.shape[1:] != (0,):
            return super().run(feeds, states)
        outputs, state = super().run({**feeds, "logit_positions": np.zeros((len(wanted), 1), np.int64)}, states)
        return {"logits": outputs["logits"][:, :0]}, state
