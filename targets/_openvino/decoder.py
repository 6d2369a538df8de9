"""What the decoders in OpenVINO have in common, whatever their states are made of: a step, its checks, its end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgekit.core import Graph
from edgekit.errors import InputError
from edgekit.session import Life

from .._states.decoder_feeds import step_of
from .._states.fixed_states import Cells
from .._states.held_inputs import HeldInputs
from .._states.stateful import DecoderStates, Tokens, alone, check_usable
from .compile_cache import LENGTH
from .engine import placement, running
from .runs import Runs
from .stateful import positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]


class Requested(Tokens):
    """The state of some rows of text, and the infer request that is its own."""

    request: Any


R = TypeVar("R", bound=Requested)


class Decoder(DecoderStates[R]):
    """One compiled model. Threads may share it, each with its own states; their steps take turns."""

    length_step = 1
    batch_tokens = 512
    chunk_tokens: int

    def __init__(self, graph: Graph, compiled: Any) -> None:
        self._graph, self._compiled, self._runs = graph, compiled, Runs()
        self._life = Life("this session")
        growing = {state.into for state in graph.states if state.axis is not None and state.out is not None}
        self._growing = {port.name: port for port in graph.inputs if port.name in growing}
        self._cells, self._held = Cells(graph), HeldInputs(graph)
        self.vocabulary = next(int(port.shape[-1]) for port in graph.outputs if port.name == "logits")
        self._positions = positions(compiled)
        self.placement = placement(compiled)

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """One step: `input_ids` int64 (batch, sequence), padded on the right; `counts` int64 (batch,), how many of
        them are real; `logit_positions` int64 (batch, outputs), the last real one if it is left out.

        Held inputs come with a state's first run.

        Gives `logits` float32 (batch, outputs, vocabulary), which may be the request's own: the next step writes over
        them then; and the same state, which has grown. Without a state an empty one is started. A run that fails or is
        interrupted spoils its state.
        Raises InputError, StateError, SessionBusyError, ResourceError, ClosedError, ForkedSessionError.
        """
        self._life.check()
        held_feeds, feeds = self._held.split(feeds)
        ids, counts, wanted = step_of(feeds)
        state = self.start(len(ids), ids.shape[1]) if states is None else self._own(states)
        if len(ids) != state.batch:
            raise InputError(f"input_ids has {len(ids)} rows, and the state holds {state.batch}")
        self._check_range(ids, state.lengths + counts)
        with alone(state.busy):
            check_usable(state)
            state.held = self._held.after(
                state.held, held_feeds, len(ids), empty=bool(held_feeds) and not state.lengths.any()
            )
            with running(self._graph.path):
                logits = self._step(state, ids, counts, wanted)
            return {"logits": logits.reshape(*wanted.shape, self.vocabulary)}, state

    @abstractmethod
    def _step(self, state: R, ids: Integers, counts: Integers, wanted: Integers) -> Array:
        """Run the state's request, and let the state grow by `counts`. Gives the logits of what is wanted, in order.

        Raises RuntimeError, as OpenVINO does.
        """

    def drawn_held(self, random: np.random.Generator) -> dict[str, Array]:
        """Held inputs of one row for a question that is always the same."""
        return self._held.drawn(random, LENGTH)

    def close(self) -> None:
        if self._life.end():
            self._runs.close()
            del self._compiled, self._runs

    def _check_range(self, ids: Integers, lengths: Integers) -> None:
        """OpenVINO would take zeros for what is beyond a table, and say nothing. Raises InputError."""
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise InputError(
                f"{self._graph.path} has no such token: its vocabulary ends at {self.vocabulary - 1}",
                hint="check that the tokenizer is this model's",
            )
        if self._positions is not None and lengths.max() > self._positions:
            raise InputError(
                f"{self._graph.path} has no such position: {lengths.max()} tokens, and it takes {self._positions}",
                hint="use a shorter text",
            )


@contextmanager
def changing(state: R) -> Iterator[Any]:
    """The state's request, while nobody knows what is in its caches: whatever fails meanwhile spoils the state."""
    state.spent = True
    yield state.request
    state.spent = False


def ask(session: Decoder[Any]) -> dict[str, Array]:
    """What a decoder gives for a prompt that is always the same, and for the token after it."""
    random = np.random.default_rng(0)
    ids = random.integers(0, session.vocabulary, (1, 4))
    held = session.drawn_held(random)
    answers, state = {}, session.start(1, 4)
    for name, part in (("prompt", ids[:, :3]), ("step", ids[:, 3:])):
        outputs, state = session.run({"input_ids": part, "counts": np.array([part.shape[1]]), **held}, state)
        held = {}
        answers[name] = outputs["logits"].copy()
    return answers
