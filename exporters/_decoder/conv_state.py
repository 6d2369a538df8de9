"""Graph parts that recurrent layers share: the mask of real tokens, and the causal convolution.

Padding is on the right and leaves no trace: a convolution's window for the next run is taken from where a row's real
tokens end, and a state space takes no step for what is not real. Knows no state space.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .._onnx_writer import Draft
from .parts import Convolution
from .weights_in_graph import Store

if TYPE_CHECKING:
    import onnx_ir as ir

END = 2**62  # of a slice: behind everything


class Run:
    """One run's tokens. `counts` (batch,) are how many of each row are real; `held`: the states' inputs by name."""

    def __init__(
        self, draft: Draft, store: Store, held: Mapping[str, ir.Value], ids: ir.Value, counts: ir.Value
    ) -> None:
        self.draft, self.store, self.held, self.ids, self.counts = draft, store, held, ids, counts
        self._windows: dict[int, ir.Value] = {}

    @cached_property
    def places(self) -> ir.Value:
        """0, 1, … for each token, (sequence,)."""
        draft, scalars = self.draft, [self.draft.tensor(f"int.{number}", np.asarray(number)) for number in (0, 1)]
        length = draft.op("Shape", [self.ids], {"start": 1, "end": 2}, name="run.length")
        length = draft.op("Squeeze", [length], name="run.tokens")
        return draft.op("Range", [scalars[0], length, scalars[1]], name="run.places")

    @cached_property
    def real(self) -> ir.Value:
        """1 for a real token and 0 for padding, float32 (batch, sequence, 1)."""
        import onnx_ir as ir

        draft, last = self.draft, self.draft.ints("axis.last", -1)
        ends = draft.op("Unsqueeze", [self.counts, last], name="run.ends")
        real = draft.op("Less", [self.places, ends], name="run.is_real")
        real = draft.op("Cast", [real], {"to": ir.DataType.FLOAT}, name="run.real_numbers")
        return draft.op("Unsqueeze", [real, last], name="run.real")

    @cached_property
    def causal(self) -> ir.Value:
        """1 from a token to itself and to those before it, else 0: float32 (sequence, sequence)."""
        import onnx_ir as ir

        draft = self.draft
        to = draft.op("Unsqueeze", [self.places, draft.ints("axis.last", -1)], name="run.to")
        seen = draft.op("GreaterOrEqual", [to, self.places], name="run.seen")
        return draft.op("Cast", [seen], {"to": ir.DataType.FLOAT}, name="run.causal")

    def convolved(self, number: int, conv: Convolution, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The convolution of (batch, sequence, channels), and the window that the next run begins with.

        One product for each place in the window: for a single token less than half the time of ONNX's Conv, which
        wants the channels first, and for many no more.
        """
        draft, at, reach = self.draft, f"layers.{number}.mixer.conv", conv.window - 1
        past = draft.op("Transpose", [self.held[f"past_conv.{number}"]], {"perm": [0, 2, 1]}, name=f"{at}.past")
        joined = draft.op("Concat", [past, value], {"axis": 1}, name=f"{at}.joined")
        made = None
        for age, tap in enumerate(self.store.taps(conv)):
            end = draft.ints(f"conv.end_{age - reach}", age - reach or END)
            bounds = [draft.ints(f"conv.begin_{age}", age), end, draft.ints("axis.sequence", 1)]
            shifted = draft.op("Slice", [joined, *bounds], name=f"{at}.shifted_{age}")
            part = draft.op("Mul", [shifted, tap], name=f"{at}.part_{age}")
            made = part if made is None else draft.op("Add", [made, part], name=f"{at}.sum_{age}")
        assert made is not None
        if conv.bias:
            bias = self.store.whole(f"{conv.name}.bias", conv.channels)
            made = draft.op("Add", [made, bias], name=f"{at}.biased")
        window = draft.op("GatherND", [joined, self._window(reach)], {"batch_dims": 1}, name=f"{at}.window")
        return made, draft.op("Transpose", [window], {"perm": [0, 2, 1]}, name=f"{at}.kept")

    def _window(self, reach: int) -> ir.Value:
        """Where each row's last `reach` real values are, in the past and this run's joined: (batch, reach, 1)."""
        if reach not in self._windows:
            draft, last, name = self.draft, self.draft.ints("axis.last", -1), f"conv.window_{reach}"
            begins = draft.op("Unsqueeze", [self.counts, last], name=f"{name}.begins")
            found = draft.op("Add", [begins, draft.ints(f"{name}.steps", *range(reach))], name=f"{name}.places")
            self._windows[reach] = draft.op("Unsqueeze", [found, last], name=name)
        return self._windows[reach]
