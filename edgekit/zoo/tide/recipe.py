"""How zoo:tide is made: `python -m edgekit.zoo.tide.recipe [--out FOLDER] [--steps N]`, a minute or two on one core.

The tide of a made harbour: five constituents with their true speeds (Doodson 1921) and weather on top, which is what
cannot be foreseen. An LSTM reads hourly heights and gives the 10 %, 50 % and 90 % quantiles of the next six. It learns
from the first years and is tested on later ones, against two baselines: the water stays as it is, and it does what it
did a lunar day (24.8 hours, so 25) before.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from edgekit.zoo import _training, metrics

STEPS = 600
TASK = "time-series-forecasting"
HOURS, HORIZON, QUANTILES = 72, 6, (0.1, 0.5, 0.9)
WARM = 24  # hours after which a forecast is asked for
ROWS, TESTED, LUNAR_DAY = 32, 400, 25
LEARNED, LATER = (0, 60_000), (70_000, 110_000)  # hours since the beginning; seven years, and four and a half
# Degrees an hour (M2, S2, N2, K1, O1), height in metres and phase in degrees at the made harbour.
CONSTITUENTS = (
    (28.9841042, 1.50, 40.0), (30.0, 0.52, 75.0), (28.4397295, 0.30, 20.0), (15.0410686, 0.22, 170.0),
    (13.9430356, 0.15, 130.0),
)  # fmt: skip
LEVEL, SURGE, KEPT = 2.6, 0.04, 0.95  # metres; weather's push an hour, and what of it is left an hour later
CONFIG = {
    "model_type": "lstm",
    "input_size": 1,
    "hidden_size": 64,
    "num_layers": 1,
    "head": "forecast",
    "per": "step",
    "outputs": ["height"],
    "horizon": HORIZON,
    "quantiles": list(QUANTILES),
    "features": ["height"],
    "normalize": {"mean": [LEVEL], "std": [1.2]},
    "denormalize": {"mean": [LEVEL], "std": [1.2]},
    "missing": "hold",
    "rate": 1 / 3600,
    "dtype": "float32",
}
CARD = {
    "name": "tide",
    "what": "Says how high the water of a harbour will be in each of the next six hours, with 10 % and 90 % quantiles.",
    "range": "hourly heights in metres, at least a day of them",
    "made_by": "python -m edgekit.zoo.tide.recipe",
}


def heights(rng: random.Random, hours: tuple[int, int], length: int) -> list[float]:
    """So many hourly heights in metres, from some hour between these on."""
    first, surge, found = rng.randrange(*hours), rng.gauss(0, SURGE / math.sqrt(1 - KEPT**2)), []
    for hour in range(first, first + length):
        tide = sum(high * math.cos(math.radians(speed * hour - phase)) for speed, high, phase in CONSTITUENTS)
        surge = KEPT * surge + rng.gauss(0, SURGE)
        found.append(round(LEVEL + tide + surge, 3))
    return found


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: three days of later years, and the six hours behind them."""
    later, learned = random.Random(_training.SEED + 1), random.Random(_training.SEED + 2)
    tested = [heights(later, LATER, HOURS + HORIZON) for _ in range(TESTED)]
    expected = [row[HOURS:] for row in tested]
    return {
        "tasks": {TASK: {"metric": "r2", "expected": expected, "baselines": baselines(tested, expected)}},
        "calibration": [[[value] for value in heights(learned, LEARNED, HOURS)] for _ in range(64)],
        "inputs": [[[value] for value in row[:HOURS]] for row in tested],
    }


def baselines(tested: list[list[float]], expected: list[list[float]]) -> dict[str, float]:
    """The metric of those who know no model."""
    stays = [[row[HOURS - 1]] * HORIZON for row in tested]
    again = [row[HOURS - LUNAR_DAY : HOURS - LUNAR_DAY + HORIZON] for row in tested]
    return {
        "persistence": round(metrics.r2(expected, stays), 4),
        "lunar day before": round(metrics.r2(expected, again), 4),
    }


def train(model: Any, steps: int) -> None:
    """Pinball loss of every quantile, at every hour from WARM on."""
    import torch

    rng, levels = random.Random(_training.SEED), torch.tensor(QUANTILES)

    def loss_at(step: int) -> Any:
        rows = torch.tensor([heights(rng, LEARNED, HOURS + HORIZON) for _ in range(ROWS)])
        series = (rows - LEVEL) / 1.2
        told = model(series[:, :HOURS, None])[:, WARM:].unflatten(-1, (HORIZON, len(QUANTILES)))
        ahead = series.unfold(1, HORIZON, 1)[:, WARM + 1 : HOURS + 1, :, None]
        missed = ahead - told
        return torch.maximum(levels * missed, (levels - 1) * missed).mean()

    _training.fit(model, loss_at, steps=steps, rate=1e-2)


def answers(model: Any, inputs: Any) -> list[list[float]]:
    """The medians for the six hours behind each input, in metres."""
    import torch

    with torch.inference_mode():
        found = model((torch.tensor(inputs) - LEVEL) / 1.2)[:, -1].unflatten(-1, (HORIZON, len(QUANTILES)))
    medians: list[list[float]] = (found[..., 1] * 1.2 + LEVEL).tolist()
    return medians


def read(folder: Path) -> Any:
    return _training.read_recurrent(folder)


def main() -> None:
    chosen = _training.options("tide", STEPS)
    _training.be_deterministic()
    model = _training.recurrent(CONFIG)
    train(model, chosen.steps)
    _training.save_recurrent(model, chosen.out)
    data = heldout_data()
    _training.write_json(chosen.out / "heldout.json", data)
    _training.write_card(chosen, model, CARD, data, lambda task: answers(model, data["inputs"]))


if __name__ == "__main__":
    main()
