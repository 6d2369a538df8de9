"""How zoo:motor is made: `python -m edgekit.zoo.motor.recipe [--out FOLDER] [--steps N]`, a minute or two on one core.

A made motor, sampled once a second: its current follows a load that comes and goes, its temperature follows the
current slowly, its vibration follows its speed. From some moment on it may fail, and every sample has its label:
`stall` (current high, vibration gone), `wear` (vibration grows) or `stuck` (the temperature's sensor no longer moves,
which a single sample cannot show).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from edgekit.zoo import _training

STEPS = 1500
TASK = "time-series-classification"
LABELS = ("ok", "stall", "wear", "stuck")
SECONDS, ROWS, TESTED = 40, 64, 400
MEAN, STD = [6.0, 45.0, 2.0], [3.0, 5.0, 1.0]
CONFIG = {
    "model_type": "gru",
    "input_size": 3,
    "hidden_size": 64,
    "num_layers": 1,
    "head": "classification",
    "per": "step",
    "labels": list(LABELS),
    "features": ["current", "temperature", "vibration"],
    "normalize": {"mean": MEAN, "std": STD},
    "missing": "hold",
    "rate": 1.0,
    "dtype": "float32",
}
CARD = {
    "name": "motor",
    "what": "Tells from a motor's current, temperature and vibration, second by second, whether and how it fails.",
    "range": "amperes, degrees Celsius and millimetres a second, a sample a second",
    "made_by": "python -m edgekit.zoo.motor.recipe",
}


def telemetry(rng: random.Random) -> tuple[list[list[float]], list[str]]:
    """SECONDS samples and the label of each. Three of four motors fail, from some second on."""
    fault, begin = rng.choice(LABELS), rng.randrange(5, SECONDS - 5)
    load, heat, found, labels = rng.uniform(2, 9), rng.uniform(35, 55), list[list[float]](), list[str]()
    for second in range(SECONDS):
        if rng.random() < 0.08:
            load = rng.uniform(2, 9)
        label = fault if second >= begin else "ok"
        since = second - begin
        current = (12 + rng.gauss(0, 0.5)) if label == "stall" else load + rng.gauss(0, 0.3)
        heat += 0.05 * (30 + 3.5 * current - heat) + rng.gauss(0, 0.15)
        shaking = 0.2 if label == "stall" else 0.8 + 0.25 * load
        shaking += 1.0 + 0.08 * since if label == "wear" else 0.0
        shown = found[-1][1] if label == "stuck" else round(heat + rng.gauss(0, 2.0), 2)
        found.append([round(current, 2), shown, round(max(0.0, shaking + rng.gauss(0, 0.15)), 2)])
        labels.append(label)
    return found, labels


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: motors whose seed the training never draws from."""
    later, learned = random.Random(_training.SEED + 1), random.Random(_training.SEED + 2)
    tested = [telemetry(later) for _ in range(TESTED)]
    return {
        "tasks": {TASK: {"metric": "step_accuracy", "expected": [labels for _, labels in tested]}},
        "calibration": [telemetry(learned)[0] for _ in range(64)],
        "inputs": [series for series, _ in tested],
    }


def train(model: Any, steps: int) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    rng = random.Random(_training.SEED)

    def loss_at(step: int) -> Any:
        made = [telemetry(rng) for _ in range(ROWS)]
        series = (torch.tensor([rows for rows, _ in made]) - torch.tensor(MEAN)) / torch.tensor(STD)
        right = torch.tensor([[LABELS.index(label) for label in labels] for _, labels in made])
        return cross_entropy(model(series).flatten(0, 1), right.flatten())

    _training.fit(model, loss_at, steps=steps, rate=6e-3)


def answers(model: Any, inputs: Any) -> list[list[str]]:
    """The likeliest label of every sample."""
    import torch

    with torch.inference_mode():
        found = model((torch.tensor(inputs) - torch.tensor(MEAN)) / torch.tensor(STD)).argmax(-1)
    return [[LABELS[at] for at in row] for row in found.tolist()]


def read(folder: Path) -> Any:
    return _training.read_recurrent(folder)


def main() -> None:
    chosen = _training.options("motor", STEPS)
    _training.be_deterministic()
    model = _training.recurrent(CONFIG)
    train(model, chosen.steps)
    _training.save_recurrent(model, chosen.out)
    data = heldout_data()
    _training.write_json(chosen.out / "heldout.json", data)
    _training.write_card(chosen, model, CARD, data, lambda task: answers(model, data["inputs"]))


if __name__ == "__main__":
    main()
