"""Recurrent models from end to end: from the zoo's folders and from a torch module to answers on every engine."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest

import edgekit
from edgekit import zoo
from edgekit.errors import VerificationError
from edgekit.zoo import metrics

pytestmark = pytest.mark.slow
TARGETS = ("cpu", "openvino")
ALLOWED = {"fp32": 1e-4, "int8": 3e-3, "int4": 1e-2}  # how far from the score of float32 under torch


@pytest.mark.parametrize("name", ["motor", "sunspots"])
def test_the_zoo_keeps_its_score(tmp_path: Path, name: str) -> None:
    held = zoo.heldout(name)
    in_process.export(f"zoo:{name}", tmp_path / "made.ek", targets=TARGETS, precision=tuple(ALLOWED))
    for target in TARGETS:
        for precision, allowed in ALLOWED.items():
            with edgekit.load(tmp_path / "made.ek", target=target, precision=precision) as model:
                score = zoo.score(held, metrics.answers(model.run(list(held.inputs))))
                assert score == pytest.approx(held.trained, abs=allowed)


def test_what_drifts_is_not_published(tmp_path: Path) -> None:
    """An LSTM that forgets late adds up what int4 rounds off, over a thousand steps."""
    numpy = pytest.importorskip("safetensors.numpy")
    folder, exports = tmp_path / "late", tmp_path / "exports"
    shutil.copytree(zoo.folder("sunspots"), folder)
    exports.mkdir()
    weights = numpy.load_file(folder / "model.safetensors")
    weights["rnn.bias_ih_l0"][32:64] += 3  # the forget gate's
    numpy.save_file(weights, folder / "model.safetensors")
    with pytest.raises(VerificationError, match="int4-g32-rtn lost too much accuracy") as caught:
        in_process.export(str(folder), exports / "made.ek", targets=["cpu"], precision="int4")
    assert "--max-accuracy-loss" in caught.value.hint
    assert list(exports.iterdir()) == []


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
