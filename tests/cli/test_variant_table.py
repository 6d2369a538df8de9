"""Variants and settings as text: the same columns everywhere, and what quantization brings in words."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.cli.variant_table import gains, settings_table, settings_text, variant_table
from edgekit.cli.verify import checks_text
from edgekit.core import Check, Graph, Measure, Recipe, Variant

FULL = {
    "milliseconds": 9.31,
    "fp32_milliseconds": 21.6,
    "metric": "cosine",
    "agreement": 0.9959,
    "loss": 0.0041,
    "samples": 48,
    "bytes": 23_000_000,
    "fp32_bytes": 90_700_000,
}


def variant(weights: str = "int8", **measured: Any) -> Variant:
    return Variant("cpu", Recipe(weights=weights), (), measured=measured)


def test_figures_have_their_fp32_in_brackets_and_a_unit() -> None:
    text = variant_table([variant(**FULL), variant("fp32", milliseconds=21.6, bytes=90_700_000)])
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "variant"
    for head in ("latency (fp32)", "size (fp32)", "agreement"):
        assert head in lines[0]
    assert "9.31 ms (21.6 ms)" in lines[1]
    assert "23.0 MB (90.7 MB)" in lines[1]
    assert "cosine 0.9959" in lines[1]
    assert "agreement with the model on 48 inputs" in text
    assert "2.32x as fast as fp32 and 3.9x smaller." in text
    assert "loss" not in lines[0]
    assert "0.0041" in variant_table([variant(**FULL)], all_figures=True)


def test_the_latency_of_a_decoder_is_that_of_a_token() -> None:
    decoder = Variant("cpu", Recipe(weights="int8"), (Graph("model", "m.onnx", (), (), kind="decoder"),), measured=FULL)
    assert "median latency of one generated token" in variant_table([decoder])
    assert "median latency of one input" in variant_table([variant(**FULL)])


def test_an_error_is_not_called_agreement() -> None:
    text = variant_table([variant(**FULL | {"metric": "relative error", "agreement": 0.003064})])
    assert "agreement" not in text.splitlines()[0]
    assert "relative error 0.00306" in text
    check = Check("cpu/fp32", True, 0.0, 0.1, Measure("relative error", 3.8e-8, 3.8e-8), 0.01, 0.1)
    assert "agreement" not in checks_text([check], 8)


@pytest.mark.parametrize(
    ("milliseconds", "end"),
    [
        (10.8, "2.00x as fast as fp32 and 3.9x smaller."),
        (21.0, "is as fast as fp32 and 3.9x smaller; use it for its size."),
        (27.0, "0.80x as fast as fp32 and 3.9x smaller; use it for its size."),
    ],
)
def test_a_line_says_what_quantization_brings(milliseconds: float, end: str) -> None:
    (line,) = gains([variant(**FULL | {"milliseconds": milliseconds}), variant("fp32", **FULL)])
    assert line.endswith(end)


def test_the_most_important_settings_are_a_line_and_all_are_a_list() -> None:
    settings = {
        "tokenizer": "tokenizer.json",
        "context_length": 40960,
        "vocab_size": 151936,
        "chat_template": "{% for message in messages %}",
        "labels": ["even", "odd"],
        "pooling": "mean",
        "dense": [],
        "default_prompt": None,
    }
    assert settings_text(settings) == "context of 40,960 tokens, vocabulary of 151,936, chat template, 2 labels"
    listed = settings_table(settings)
    assert "pooling" in listed
    assert "dense" not in listed
    assert "default_prompt" not in listed


def test_checks_have_a_head_for_every_column_and_a_sentence() -> None:
    good = Check("cpu/int8", True, 0.0, 0.05, Measure("cosine", 0.9959, 0.0041), 0.0093, 0.53)
    text = checks_text([good], 8)
    assert text.splitlines()[0].split() == (
        [
            "variant",
            "result",
            "difference",
            "allowed",
            "agreement",
            "loss",
            "allowed",
            "loss",
            "batch-invariant",
            "seconds",
        ]
    )
    assert text.endswith("1 of 1 variant gives its known outputs on this machine, for 8 inputs.")
    bad = Check("cpu/fp32", False, 1.0, 0.05, Measure("cosine", 0.5, 0.5), 0.0093, 0.53, "it moved")
    text = checks_text([good, bad], 8)
    assert "it moved" in text
    assert "1 of 2 variants give their known outputs on this machine, for 8 inputs." in text
