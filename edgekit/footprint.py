"""Memory that an engine needs for a graph: the measured figures that forecasts are computed from.

Every figure is measured, on Linux x86-64, by tests/benchmarks/forecast_fit.py, which says how far the sum of them is
from what a process then takes. Knows no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

ANY = 1 << 40  # as many as there are


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes, and multiples of what the graph's files say."""

    base: int  # Python, numpy and the engine with a graph of no size open
    libraries: int  # more, of their code: a sixth less or more, as its files lie in the kernel's page cache
    node: int  # for each node of the graph
    opening: int  # more, while it is opened for the first time
    weights: float  # of the weights' bytes: mapped, copied or packed
    kernels: float = 0.0  # more, of a convolution's as float32: reordered, beside those of the file
    unpacked: float = 0.0  # more, of dequantized matrices' as float32; a convolution's are always unpacked
    mapped: float = 0.0  # more of them, while it is opened: read from a file whose pages are given back then
    tied: float  # of the largest weight's, where a decoder looks tokens up in the matrix that makes its logits
    prompt: float = 0.0  # of the bytes of the weights that the form for prompts is given
    state: float = 1.0  # of the bytes of a state that grows
    fixed: float = 2.0  # of one that does not: a step reads one copy and writes the other
    copied: float = 0.0  # of all states' bytes, while a step runs
    item: int = 4  # of an activation's number
    live: float  # activations of the widest kind that are there at the same time
    row: float = 0.0  # the same of the largest value of a graph whose only free axis is its rows
    scores: float  # copies of a layer's attention scores
    chunk: int = ANY  # tokens of a row that are computed at once
    together: int  # tokens of all rows that are, unless a single row has more
    asked: int = 0  # tokens that are computed while it is opened
