from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from tiny_bert import SENTENCES, TorchSession, bert_config, minilm, numbers, tokenizer

from edgekit.errors import BundleError, InputError
from edgekit.runtimes.heads import embedding as head
from edgekit.runtimes.ingest import text as ingest
from edgekit.runtimes.ingest.text import TextBatch

OUTPUT = "last_hidden_state"
PROMPTS = {"query": "query: ", "long": "Represent this sentence for searching: "}
TEXTS = [sentence for sentence in SENTENCES if sentence]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny BERT with random weights, and its folder in `name_or_path`."""
    import torch
    from transformers import BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    BertModel(bert_config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return BertModel.from_pretrained(folder)


def embed(bert: Any, given: dict[str, Any], folder: Path = Path(), prompt: str | None = None, **options: Any) -> Any:
    text = ingest.open(minilm(), {"inputs": list(ingest.INPUTS), "prompts": PROMPTS})
    opened = head.open(folder, {"output": OUTPUT, **given})
    encodings = text.encode(TEXTS, prompt=prompt)
    found = numbers(head, TorchSession(bert, OUTPUT), text, encodings, opened, **options)
    return head.answers(found, encodings, opened)


def batch_of(*lengths: int) -> TextBatch:
    return TextBatch({}, tuple(range(len(lengths))), (), np.array(lengths))


def sentence_transformer(bert: Any, *modules: Any, **options: Any) -> Any:
    """The same model as sentence-transformers runs it, with its own pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    return SentenceTransformer(modules=[Transformer(bert.name_or_path), *modules], device="cpu", **options)


@pytest.mark.parametrize(("ours", "theirs"), [("mean", "mean"), ("cls", "cls"), ("last", "lasttoken"), ("max", "max")])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_that_of_sentence_transformers(bert: Any, ours: str, theirs: str, normalize: bool) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    reference = sentence_transformer(bert, Pooling(32, theirs)).encode(TEXTS, normalize_embeddings=normalize)
    found = embed(bert, {"pooling": ours, "normalize": normalize})
    assert found.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(found, reference, atol=2e-6)


@pytest.mark.parametrize("prompt", [None, "query", "long"])
@pytest.mark.parametrize(("ours", "theirs"), [("mean", "mean"), ("cls", "cls"), ("last", "lasttoken"), ("max", "max")])
def test_pooling_without_the_prompt_is_that_of_sentence_transformers(
    bert: Any, ours: str, theirs: str, prompt: str | None
) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = sentence_transformer(bert, Pooling(32, theirs, include_prompt=False), prompts=PROMPTS)
    found = embed(bert, {"pooling": ours, "include_prompt": False}, prompt=prompt)
    np.testing.assert_allclose(found, model.encode(TEXTS, prompt_name=prompt), atol=2e-6)
    if prompt and ours != "last":
        assert np.abs(found - embed(bert, {"pooling": ours}, prompt=prompt)).max() > 0.01


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("tanh", "Tanh"), ("torch.nn.modules.linear.Identity", "Identity"), ("relu", "ReLU"), ("silu", "SiLU")],
)
def test_dense_layers_are_those_of_sentence_transformers(bert: Any, tmp_path: Path, ours: str, theirs: str) -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    torch.manual_seed(1)
    layers = [Dense(32, 48, activation_function=getattr(torch.nn, theirs)()), Dense(48, 8, bias=False)]
    for number, layer in enumerate(layers):
        np.save(tmp_path / f"{number}.npy", layer.linear.weight.detach().numpy())
    np.save(tmp_path / "bias.npy", layers[0].linear.bias.detach().numpy())
    dense = [
        {"weight": "0.npy", "bias": "bias.npy", "activation": ours},
        {"weight": "1.npy", "bias": None, "activation": "torch.nn.modules.activation.Tanh"},
    ]
    found = embed(bert, {"pooling": "mean", "normalize": True, "dense": dense}, tmp_path)
    reference = sentence_transformer(bert, Pooling(32, "mean"), *layers, Normalize()).encode(TEXTS)
    np.testing.assert_allclose(found, reference, atol=2e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_matryoshka_cut_is_that_of_sentence_transformers(bert: Any, normalize: bool) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = sentence_transformer(bert, Pooling(32, "mean"), truncate_dim=5)
    reference = model.encode(TEXTS, normalize_embeddings=normalize)
    by_settings = embed(bert, {"pooling": "mean", "normalize": normalize, "dimensions": 5})
    by_call = embed(bert, {"pooling": "mean", "normalize": normalize, "dimensions": 9}, dimensions=5)
    np.testing.assert_allclose(by_settings, reference, atol=2e-6)
    np.testing.assert_array_equal(by_settings, by_call)


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [(0, "dimensions is 0"), (-1, "dimensions is -1"), (33, "cannot shorten vectors of 32 numbers to 33")],
)
def test_a_cut_that_is_not_in_the_vector_is_refused(bert: Any, dimensions: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        embed(bert, {"pooling": "mean"}, dimensions=dimensions)
    assert "from 1 to 32" in caught.value.hint


@examples(60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    pooling=st.sampled_from(["mean", "cls", "last", "max"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_has_no_say(lengths: list[int], pooling: str, seed: int) -> None:
    hidden = np.random.default_rng(seed).normal(size=(len(lengths), 12, 5)).astype(np.float32)
    given = {"output": "h", "pooling": pooling}

    def pooled(hidden: Any, lengths: list[int]) -> Any:
        return head.numbers({"h": hidden}, batch_of(*lengths), given)

    for row, (length, vector) in enumerate(zip(lengths, pooled(hidden, lengths), strict=True)):
        np.testing.assert_allclose(vector, pooled(hidden[row : row + 1, :length], [length])[0], atol=1e-6)


def test_a_row_without_tokens_is_zero_and_not_nan() -> None:
    batch = batch_of(0)
    given = {"output": "h", "pooling": "mean", "normalize": True}
    vectors = head.numbers({"h": np.ones((1, 1, 3), np.float32)}, batch, given)
    assert vectors.tolist() == [[0, 0, 0]]


def test_a_graph_that_pools_and_gives_half_precision() -> None:
    batch = batch_of(3, 2)
    outputs = {"v": np.array([[3, 4], [0, 2]], np.float16)}
    vectors = head.numbers(outputs, batch, {"output": "v", "pooling": "none", "normalize": True})
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


def test_vectors_do_not_keep_the_hidden_states() -> None:
    hidden = np.ones((1, 4, 3), np.float32)
    batch = batch_of(4)
    vectors = head.numbers({"h": hidden}, batch, {"output": "h", "pooling": "cls"})
    hidden[:] = 0
    assert vectors.tolist() == [[1, 1, 1]]


def test_no_texts_no_vectors() -> None:
    assert head.answers([], [], {}).shape == (0, 0)
    assert head.answers([], [], {"dimensions": 64}).shape == (0, 64)


def test_similarity() -> None:
    a = np.array([[1, 0], [3, 4]], np.float32)
    b = np.array([[2, 0], [0, 1], [3, 4]], np.float32)
    np.testing.assert_allclose(head.similarity(a, b, {}), [[1, 0, 0.6], [0.6, 0.8, 1]], rtol=1e-6)
    np.testing.assert_allclose(head.similarity(a, b, {"similarity": "dot"}), [[2, 0, 3], [6, 4, 25]])


def test_compare() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    same = head.compare(vectors, 3 * vectors)
    assert same.metric == "cosine"
    assert same.loss == pytest.approx(0, abs=1e-6)
    assert head.compare(list(vectors), list(-vectors)).loss == pytest.approx(2)
    turned = head.compare(np.array([[1, 0]], np.float32), np.array([[1, 1]], np.float32))
    assert turned.value == pytest.approx(0.5**0.5)
    assert turned.loss == pytest.approx(1 - 0.5**0.5)
    broken = vectors.copy()
    broken[1, 2] = np.nan
    assert head.compare(vectors, broken).loss == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pooling": "middle"}, "pooling is 'middle', not one of mean, cls, last, max, none"),
        ({}, "pooling is None"),
        ({"pooling": "mean", "similarity": "euclid"}, "similarity is 'euclid'"),
        ({"pooling": "mean", "output": None}, "which output"),
        ({"pooling": "mean", "dimensions": "8"}, "dimensions is '8', not a number"),
        ({"pooling": "mean", "dense": [{}]}, "name a file as None"),
        ({"pooling": "mean", "dense": [{"weight": "w.npy", "activation": "softsign"}]}, "activation 'softsign'"),
        ({"pooling": "mean", "dense": [{"weight": "../w.npy"}]}, "w.npy"),
        ({"pooling": "mean", "dense": [{"weight": "gone.npy"}]}, r"gone\.npy is missing"),
        ({"pooling": "mean", "dense": [{"weight": "text.npy"}]}, r"text\.npy is not a file of arrays"),
        ({"pooling": "mean", "dense": [{"weight": "pickle.npy"}]}, r"pickle\.npy is not a file of arrays"),
        ({"pooling": "mean", "dense": [{"weight": "empty.npy"}]}, r"empty\.npy is not a file of arrays"),
        ({"pooling": "mean", "dense": [{"weight": "flat.npy"}]}, r"flat\.npy has 1 axes, not 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=message):
        head.open(tmp_path, {"output": OUTPUT, **given})
