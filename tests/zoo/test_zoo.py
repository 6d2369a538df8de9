"""The zoo as others use it: its files, its held-out data, its metrics; torch only to hold the cards to account."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from edgekit import zoo
from edgekit.errors import InputError, SourceError
from edgekit.zoo import metrics

MEGABYTE = 1024 * 1024
DTYPES = {"float32": "F32", "bfloat16": "BF16"}
TASKS = [(name, task) for name in zoo.names() for task in zoo.tasks(name)]
TEXTUAL = [name for name in zoo.names() if (zoo.folder(name) / "tokenizer.json").is_file()]
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalization: tensors, not parameters
FEWEST = {"digits": 360, "sunspots": 69}  # sizes of recorded data sets; other models have as many inputs as they want
WORST = {"sunspots": 0.85}  # the sun cannot be foretold to the last spot
each_model = pytest.mark.parametrize("name", zoo.names())
each_task = pytest.mark.parametrize(("name", "task"), TASKS)


def size(name: str) -> int:
    return sum(file.stat().st_size for file in zoo.folder(name).rglob("*") if file.suffix in (".safetensors", ".json"))


def read(name: str, file: str) -> Any:
    return json.loads((zoo.folder(name) / file).read_text())


def test_the_zoo_is_small_and_not_empty() -> None:
    assert {"digits", "motor", "parity", "speaker", "spotter", "sunspots", "teller"} <= set(zoo.names())
    assert all(size(name) <= 1.5 * MEGABYTE for name in zoo.names())
    assert sum(map(size, zoo.names())) <= 8 * MEGABYTE


@each_model
def test_card_describes_these_weights(name: str) -> None:
    card = read(name, "card.json")
    weights = (zoo.folder(name) / "model.safetensors").read_bytes()
    assert card["name"] == name
    assert card["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert card["weights"]["bytes"] == len(weights)
    header = json.loads(weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]])
    tensors = [tensor for key, tensor in header.items() if not key.endswith(("__metadata__", *BUFFERS))]
    assert {tensor["dtype"] for tensor in tensors} == {DTYPES[read(name, "config.json")["dtype"]]}
    assert sum(int(np.prod(tensor["shape"])) for tensor in tensors) == card["weights"]["parameters"]


@each_model
def test_recipe_makes_the_committed_held_out_data(name: str) -> None:
    """Data alone: no torch. Also says that the weights were measured on what is committed."""
    recipe = import_module(f"edgekit.zoo.{name}.recipe")
    assert json.loads(json.dumps(recipe.heldout_data())) == read(name, "heldout.json")


@each_task
def test_right_answers_score_one_and_calibration_is_other_data(name: str, task: str) -> None:
    held = zoo.heldout(name, task)
    assert held.task == task
    assert len(set(held.inputs)) == len(held.inputs) >= FEWEST.get(name, 400)
    assert len(held.calibration) >= 64
    assert not set(held.inputs) & set(held.calibration)
    if held.metric == "recall@1":
        perfect = np.eye(len(held.expected))
        assert zoo.score(held, np.concatenate([perfect, perfect])) == 1.0
    else:
        assert zoo.score(held, held.expected) == 1.0
    assert WORST.get(name, 0.95) <= held.trained <= 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.trained = 1.0  # type: ignore[misc]


def test_first_task_is_the_default() -> None:
    assert zoo.heldout("parity") == zoo.heldout("parity", "feature-extraction")


def test_unknown_names_are_told_apart() -> None:
    with pytest.raises(SourceError, match="no model named 'parroty'") as caught:
        zoo.folder("parroty")
    assert "parity" in caught.value.hint
    with pytest.raises(SourceError, match="no model named"):
        zoo.folder("../zoo/parity")
    with pytest.raises(SourceError, match="not trained for 'fill-mask'") as caught:
        zoo.heldout("spotter", "fill-mask")
    assert "token-classification" in caught.value.hint


def test_an_answer_for_each_input() -> None:
    held = zoo.heldout("spotter")
    with pytest.raises(InputError, match="399 answers for 400"):
        zoo.score(held, held.expected[:-1])


def test_accuracy_counts_equal_labels() -> None:
    assert metrics.accuracy(["odd", "even", "odd", "odd"], ["odd", "odd", "odd", "even"]) == 0.5


def test_exact_match_forgives_no_hyphen() -> None:
    expected = ["forty-two", "one hundred", "six", "ten"]
    assert metrics.exact_match(expected, ["forty-two", "one  hundred", " six", "Ten"]) == 0.25
    assert metrics.exact_match(expected, ["forty two", "one hundred", "six", "ten"]) == 0.75


def test_span_f1_wants_exact_spans() -> None:
    expected = [[(0, 5, "YEAR"), (9, 12, "CARDINAL")], [], [(3, 7, "ORDINAL")]]
    shifted = [[(0, 5, "YEAR"), (9, 11, "CARDINAL")], [], [(3, 7, "CARDINAL")]]
    assert metrics.span_f1(expected, shifted) == pytest.approx(1 / 3)
    assert metrics.span_f1(expected, [[(0, 5, "YEAR"), (0, 5, "YEAR")], [], []]) == pytest.approx(2 / 4)
    assert metrics.span_f1(expected, [[], [], []]) == 0.0
    assert metrics.span_f1([[], []], [[], []]) == 1.0


def test_recall_at_1_is_by_direction_and_wants_to_be_strictly_nearest() -> None:
    passages = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    queries = np.array([[9.0, 1.0], [1.0, 0.9], [-0.1, 0.0]])
    assert metrics.recall_at_1([3, 4, 5], np.concatenate([queries, passages])) == pytest.approx(2 / 3)
    assert metrics.recall_at_1([3, 4, 5], np.ones((6, 2))) == 0.0
    assert metrics.recall_at_1([3, 4, 5], np.zeros((6, 2))) == 0.0
    assert metrics.recall_at_1([3, 4, 5], np.full((6, 2), np.nan)) == 0.0


def test_step_accuracy_counts_steps() -> None:
    assert metrics.step_accuracy([["ok"] * 3, ["ok"]], [["ok", "worn", "ok"], ["ok"]]) == 0.75
    with pytest.raises(ValueError, match="shorter"):
        metrics.step_accuracy([["ok", "ok"]], [["ok"]])


def test_r2_is_of_the_spread() -> None:
    assert metrics.r2([[0.0, 2.0], [4.0, 6.0]], [[1.0, 2.0], [4.0, 5.0]]) == pytest.approx(1 - 2 / 20)
    assert metrics.r2([[0.0, 2.0]], [[1.0, 1.0]]) == 0.0
    assert metrics.r2([[0.0, 2.0]], [[9.0, 9.0]]) == metrics.r2([[0.0, 2.0]], [[float("nan"), 2.0]]) == 0.0


def test_sunspots_are_not_told_by_what_knows_no_model() -> None:
    """Neither by the last year's number nor by that of a cycle before; the card says how far off each of them is."""
    held, told = zoo.heldout("sunspots"), read("sunspots", "card.json")["held_out"]
    rows, wanted = np.array(held.inputs)[..., 0], np.array(held.expected)[:, 0]
    for name, guess in {"persistence": rows[:, -1], "a cycle before": rows[:, -11]}.items():
        assert told[name]["r2"] == pytest.approx(zoo.score(held, guess[:, None]), abs=1e-4)
        assert told[name]["mean_absolute_error"] == pytest.approx(np.abs(wanted - guess).mean(), abs=1e-2)
        assert told["zoo:sunspots"]["mean_absolute_error"] < 0.6 * told[name]["mean_absolute_error"]
        assert 1 - held.trained < 0.4 * (1 - told[name]["r2"])


def test_held_out_years_are_not_learned_from() -> None:
    """Each held-out year is asked for once, with the years before it; no number of theirs calibrates anything."""
    from edgekit.zoo.sunspots import recipe

    known, held = recipe.numbers(), zoo.heldout("sunspots")
    assert list(known) == list(range(1700, 2009))
    assert [want for (want,) in held.expected] == [known[year] for year in range(1940, 2009)]
    assert [row[-1][0] for row in held.inputs] == [known[year] for year in range(1939, 2008)]
    learned = [known[year] for year in range(1700, 1940)]
    for rows in held.calibration:
        values = [value for (value,) in rows]
        assert any(values == learned[at : at + len(values)] for at in range(len(learned) - len(values) + 1))


def test_using_the_zoo_brings_no_numpy_of_its_own_and_no_torch() -> None:
    code = (
        "import sys; from edgekit import zoo; held = zoo.heldout('parity', 'text-classification');"
        "assert zoo.score(held, held.expected) == 1.0;"
        "import edgekit.zoo.digits.recipe, edgekit.zoo.motor.recipe, edgekit.zoo.sunspots.recipe;"
        "import edgekit.zoo.parity.recipe, edgekit.zoo.speaker.recipe, edgekit.zoo.spotter.recipe;"
        "import edgekit.zoo.teller.recipe;"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'PIL', 'sklearn'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TEXTUAL)
def test_tokenizer_reads_every_held_out_text(name: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(zoo.folder(name) / "tokenizer.json"))
    config, names = read(name, "config.json"), read(name, "tokenizer_config.json")
    held = zoo.heldout(name)
    encodings = tokenizer.encode_batch([*held.inputs, *held.calibration])
    assert tokenizer.encode("☃").tokens.count(names["unk_token"]) == 1
    assert all(names["unk_token"] not in encoding.tokens for encoding in encodings)
    assert max(len(encoding.ids) for encoding in encodings) <= config.get(
        "max_position_embeddings", names["model_max_length"]
    )
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    for text, encoding in zip(held.inputs, encodings):
        letters = "".join(text[start:end] for start, end in encoding.offsets)
        assert letters.replace(" ", "") == text.replace(" ", "")
        assert tokenizer.decode(encoding.ids).replace(" ", "") == text.lower().replace(" ", "")


@pytest.mark.slow
@each_task
def test_float32_weights_score_what_the_card_says(name: str, task: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    held = zoo.heldout(name, task)
    recipe = import_module(f"edgekit.zoo.{name}.recipe")
    if name not in TEXTUAL:
        assert zoo.score(held, recipe.answers(recipe.read(zoo.folder(name)), held.inputs)) == pytest.approx(
            held.trained
        )
        return
    kinds = {"token-classification": "TokenClassification", "text-generation": "CausalLM"}
    kind = getattr(transformers, f"AutoModelFor{kinds.get(task, 'SequenceClassification')}")
    loaded = kind.from_pretrained(zoo.folder(name), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(zoo.folder(name))
    answers = recipe.answers(loaded, tokenizer, task, list(held.inputs))
    assert zoo.score(held, answers) == pytest.approx(held.trained, abs=1e-6)


@pytest.mark.slow
def test_parity_is_a_sentence_transformers_folder_too() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    held = zoo.heldout("parity", "feature-extraction")
    model = sentence_transformers.SentenceTransformer(str(zoo.folder("parity")), device="cpu")
    vectors = model.encode(list(held.inputs), batch_size=250, show_progress_bar=False)
    assert vectors.shape == (len(held.inputs), 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert zoo.score(held, vectors) == pytest.approx(held.trained, abs=1e-6)
