"""How zoo:sunspots is made: `python -m edgekit.zoo.sunspots.recipe [--out FOLDER] [--steps N]`, half a minute.

sunspots.csv is the yearly mean sunspot number from 1700 to 2008, as NOAA's National Geophysical Data Center gave it
out and as statsmodels has it (`sunspots`); it is in the public domain. An LSTM reads 44 years, four cycles of the sun,
and says the number of the year behind them. It learns from years before 1940 and is tested on all since, against two
baselines: the number stays as it is, and it is that of a cycle (11 years) before. How much its weights decay is chosen
here on the last 40 of the years that it learns from, as its steps and its noise were before; then it learns from all.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from edgekit.zoo import _training, metrics

STEPS = 300
TASK = "time-series-forecasting"
FILE = Path(__file__).with_name("sunspots.csv")
YEARS, CYCLE = 44, 11  # years that a forecast is made from, and of the sun's cycle
WARM = 11  # years after which a forecast counts in training
VALIDATED, TESTED = 1900, 1940  # the first years that weight decay is chosen on, and that are held out
DECAYS = (0.1, 0.3, 1.0, 3.0)
ROWS, APART = 32, 3  # series of a batch; years from one series for calibration to the next
MEAN, STD = 50.0, 40.0
# Training makes a short record longer: a series is scaled by e to the power of a normal number of this deviation, and
# each of its numbers is moved by as much noise as a count of that size has.
SCALED, NOISE = 0.2, 1.0
CONFIG = {
    "model_type": "lstm",
    "input_size": 1,
    "hidden_size": 32,
    "num_layers": 1,
    "head": "forecast",
    "per": "step",
    "outputs": ["sunspots"],
    "horizon": 1,
    "features": ["sunspots"],
    "normalize": {"mean": [MEAN], "std": [STD]},
    "denormalize": {"mean": [MEAN], "std": [STD]},
    "missing": "hold",
    "rate": 1 / 31_556_952,
    "dtype": "float32",
}
CARD = {
    "name": "sunspots",
    "what": "Says the next year's mean sunspot number from those of the years before.",
    "range": "yearly mean sunspot numbers (the original scale, in use until 2015), 44 years of them",
    "data": "yearly sunspot numbers 1700-2008, NOAA National Geophysical Data Center, by way of statsmodels; public "
    "domain; 1940-2008 held out",
    "made_by": "python -m edgekit.zoo.sunspots.recipe",
}


def numbers() -> dict[int, float]:
    """The sunspot number of each year."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {int(row["year"]): float(row["sunspots"]) for row in csv.DictReader(file)}


def series(year: int) -> list[float]:
    """The numbers of the YEARS before this year, and its own."""
    known = numbers()
    return [known[at] for at in range(year - YEARS, year + 1)]


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: for each held-out year the years before it, and its own number."""
    known = numbers()
    tested = [series(year) for year in known if year >= TESTED]
    learned = [series(year) for year in range(min(known) + YEARS, TESTED, APART)]
    return {
        "tasks": {TASK: {"metric": "r2", "expected": [row[YEARS:] for row in tested]}},
        "calibration": [[[value] for value in row[:YEARS]] for row in learned],
        "inputs": [[[value] for value in row[:YEARS]] for row in tested],
    }


def figures(expected: list[list[float]], answers: list[list[float]]) -> dict[str, float]:
    """How good such answers are: R2, and how far they are off on average, in sunspots."""
    apart = [abs(want - got) for wanted, given in zip(expected, answers) for want, got in zip(wanted, given)]
    return {
        "r2": round(metrics.r2(expected, answers), 4),
        "mean_absolute_error": round(sum(apart) / len(apart), 2),
    }


def baselines(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of those who know no model."""
    expected = data["tasks"][TASK]["expected"]
    return {
        "persistence": figures(expected, [row[-1] for row in data["inputs"]]),
        "a cycle before": figures(expected, [row[-CYCLE] for row in data["inputs"]]),
    }


def train(steps: int) -> Any:
    """The model with the weight decay that did best on the years from VALIDATED on, which it had not learned from."""
    validated = [series(year) for year in range(VALIDATED, TESTED)]

    def error(decay: float) -> float:
        found = answers(fitted(VALIDATED, decay, steps), [[[value] for value in row[:YEARS]] for row in validated])
        return figures([row[YEARS:] for row in validated], found)["mean_absolute_error"]

    return fitted(TESTED, min(DECAYS, key=error), steps)


def fitted(end: int, decay: float, steps: int) -> Any:
    """A model that has learned from the years before `end`: squared error by the size of the number, as a count's
    variance grows with it."""
    import torch

    _training.be_deterministic()
    model, (first, *_) = _training.recurrent(CONFIG), numbers()
    learned = torch.tensor([series(year) for year in range(first + YEARS, end)])

    def loss_at(step: int) -> Any:
        rows = learned[torch.randint(len(learned), (ROWS,))] * torch.exp(SCALED * torch.randn(ROWS, 1))
        seen = rows[:, :-1] + NOISE * rows[:, :-1].clamp(min=4).sqrt() * torch.randn(ROWS, YEARS)
        told = model((seen[..., None] - MEAN) / STD)[:, WARM:, 0] * STD + MEAN
        ahead = rows[:, WARM + 1 :]
        return ((told - ahead) ** 2 / (told.detach().clamp(min=0) + ahead + 20)).mean()

    _training.fit(model, loss_at, steps=steps, rate=1e-2, decay=decay)
    return model


def answers(model: Any, inputs: Any) -> list[list[float]]:
    """The number of the year behind each input."""
    import torch

    with torch.inference_mode():
        found: list[list[float]] = (model((torch.tensor(inputs) - MEAN) / STD)[:, -1] * STD + MEAN).tolist()
    return found


def read(folder: Path) -> Any:
    return _training.read_recurrent(folder)


def main() -> None:
    chosen = _training.options("sunspots", STEPS)
    model, data = train(chosen.steps), heldout_data()
    _training.save_recurrent(model, chosen.out)
    _training.write_json(chosen.out / "heldout.json", data)
    own = figures(data["tasks"][TASK]["expected"], answers(model, data["inputs"]))
    about = {**CARD, "held_out": {"zoo:sunspots": own, **baselines(data)}}
    _training.write_card(chosen, model, about, data, lambda task: answers(model, data["inputs"]))


if __name__ == "__main__":
    main()
