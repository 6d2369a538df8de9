"""Recurrent models from end to end: from the zoo's folders and from a torch module to answers on every engine."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import zoo
from edgekit.errors import VerificationError

pytestmark = pytest.mark.slow
TARGETS = ("cpu", "openvino")


def labels(model: edgekit.Model, series: Any) -> list[list[str]]:
    return [[step[0].label for step in one] for one in model.classify(series, top_k=1)]


def medians(model: edgekit.Model, series: Any) -> list[list[float]]:
    return [one.values[:, 0].tolist() for one in model.forecast(series)]


@pytest.mark.parametrize(
    ("name", "ask", "precisions"), [("motor", labels, ("fp32", "int8", "int4")), ("tide", medians, ("fp32", "int8"))]
)
def test_the_zoo_keeps_its_score(tmp_path: Path, name: str, ask: Any, precisions: tuple[str, ...]) -> None:
    held = zoo.heldout(name)
    series = [np.asarray(one, np.float32) for one in held.inputs]
    edgekit.export(f"zoo:{name}", tmp_path / "made.ek", targets=TARGETS, precision=precisions)
    for target in TARGETS:
        for precision in precisions:
            with edgekit.load(tmp_path / "made.ek", target=target, precision=precision) as model:
                score = zoo.score(held, ask(model, series))
                assert score == pytest.approx(held.trained, abs=1e-4 if precision == "fp32" else 3e-3)


def test_what_drifts_is_not_published(tmp_path: Path) -> None:
    """The tide's LSTM in int4 is near at first and not after a thousand steps."""
    with pytest.raises(VerificationError, match="int4-g32-rtn lost too much") as caught:
        edgekit.export("zoo:tide", tmp_path / "made.ek", targets=["cpu"], precision="int4")
    assert "--max-accuracy-loss" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_module_step_by_step(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Filter(torch.nn.Module):  # type: ignore[misc]
        """A running mean and what is left of it, through a recurrent layer."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = torch.nn.GRU(2, 8, 2, batch_first=True), torch.nn.Linear(8, 3)

        def forward(self, x: Any, h: Any) -> Any:
            y, h = self.rnn(x, h)
            return self.head(y), h

    module, x = Filter().eval(), np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future
        example = (torch.zeros(3, 5, 2), torch.zeros(2, 3, 8))
        edgekit.export(module, tmp_path / "made.ek", example_inputs=example, states={"h": "next"}, precision="fp32")
    with torch.inference_mode():
        wanted = module(torch.from_numpy(x)[None], torch.zeros(2, 1, 8))[0][0].numpy()
    for target in TARGETS:
        with edgekit.load(tmp_path / "made.ek", target=target) as model:
            assert model.bundle.source.id == "Filter"
            assert np.abs(model.predict(x) - wanted).max() <= 1e-5
            assert np.abs(np.stack([model.step(row) for row in x]) - wanted).max() <= 1e-5
