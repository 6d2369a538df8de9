"""The reference of a model: its size, and prompts that are read together are what they are alone."""

from __future__ import annotations

from pathlib import Path

import built_decoders as engines
import in_process
import numpy as np
import pytest

from edgekit.core import Recipe
from edgekit.runtimes.loops.decode import together, whole_prompts

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15]]
POSITIONS = [[3, 4, 5, 6], [0], [1, 2]]


@pytest.mark.parametrize("arch", ["llama", "gemma3_text", "mamba", "falcon_h1"])
def test_prompts_of_unequal_length_are_each_by_itself(arch: str, tmp_path: Path) -> None:
    source = engines.folder_of(tmp_path / "source", engines.config_of(arch))
    built = engines.build(source, tmp_path, Recipe())
    run = engines.onnxruntime(tmp_path / built.path)
    batch = run(whole_prompts(built, PROMPTS, POSITIONS))["logits"]
    assert batch.shape[:2] == (3, 4)
    for found, ids, positions in zip(batch, PROMPTS, POSITIONS, strict=True):
        alone = run(whole_prompts(built, [ids], [positions]))["logits"][0]
        np.testing.assert_allclose(found[: len(positions)], alone, atol=1e-5)


def test_as_many_at_a_time_as_are_few_tokens_with_what_pads_them() -> None:
    lengths = [400, 400, 100, 1000, 2000, 3, 500, 600]
    made = [list(map(len, rows)) for rows in together([[0] * length for length in lengths])]
    assert made == [[400, 400], [100], [1000], [2000], [3, 500], [600]]
    assert list(together([])) == []


@pytest.mark.slow
def test_the_size_in_float32_does_not_depend_on_how_the_weights_are_stored(tmp_path: Path) -> None:
    """The zoo's speaker is stored in bfloat16: two bytes for each of its 302,720 parameters."""
    made = in_process.export("zoo:speaker", tmp_path / "made.ek", targets=["cpu"], precision="int4")
    (variant,) = made.variants
    assert variant.measured["fp32_bytes"] == pytest.approx(4 * 302_720, rel=0.02)
