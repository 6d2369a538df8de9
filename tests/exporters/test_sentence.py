from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_models

from edgekit.errors import BundleError, EdgeKitError, UnsupportedError
from edgekit.exporters._text_encoder.sentence import sentence_settings
from edgekit.source import sentence_layout

OLD = "sentence_transformers.models."
# Where version 6 keeps each class.
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
OLD_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
LIMIT = 200


def old_pooling(*on: str, **more: Any) -> dict[str, Any]:
    """As versions before 5.2 write it."""
    return {"word_embedding_dimension": 4, **{f"pooling_mode_{mode}": mode in on for mode in OLD_MODES}, **more}


def write(folder: Path, *types: str, **configs: Any) -> Path:
    """A modules.json of these types, each with its folder; `configs`: kind -> its config.json."""
    entries = []
    for number, stated in enumerate(types):
        kind = stated.rpartition(".")[2]
        path = "" if kind == "Transformer" else f"{number}_{kind}"
        entries.append({"idx": number, "name": str(number), "path": path, "type": stated})
        (folder / path).mkdir(parents=True, exist_ok=True)
        if kind in configs:
            (folder / path / "config.json").write_text(json.dumps(configs[kind]), encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def old(*kinds: str) -> list[str]:
    return [OLD + kind for kind in kinds]


def settings(folder: Path, positions: int = LIMIT) -> dict[str, Any]:
    found: dict[str, Any] = sentence_settings(folder, folder, positions=positions)
    return found


def write_json(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def save_dense(folder: Path, **arrays: Any) -> None:
    from safetensors.numpy import save_file

    save_file({f"linear.{name}": array for name, array in arrays.items()}, folder / "model.safetensors")


# What is understood


def test_without_modules_the_mean_is_taken_as_it_is(tmp_path: Path) -> None:
    assert settings(tmp_path) == {
        "pooling": "mean",
        "normalize": False,
        "dense": [],
        "dimensions": None,
        "prompts": {},
        "default_prompt": None,
        "similarity": "cosine",
    }


@pytest.mark.parametrize("names", [{kind: OLD + kind for kind in NEW}, NEW], ids=["old", "new"])
def test_class_names_of_every_version(tmp_path: Path, names: dict[str, str]) -> None:
    folder = write(
        tmp_path, names["Transformer"], names["Pooling"], names["Normalize"], Pooling=old_pooling("cls_token")
    )
    found = settings(folder)
    assert found["pooling"] == "cls"
    assert found["normalize"] is True
    assert "max_length" not in found  # the tokenizer's limit holds
    assert found["lowercase"] is False


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (old_pooling("mean_tokens"), "mean"),
        (old_pooling("cls_token"), "cls"),
        (old_pooling("max_tokens"), "max"),
        (old_pooling("lasttoken"), "last"),
        ({"embedding_dimension": 4, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 4, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"embedding_dimension": 4, "pooling_mode": "max", "include_prompt": True}, "max"),
        ({"embedding_dimension": 4, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
        ({"embedding_dimension": 4, "pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling_in_the_words_of_every_version(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    assert settings(write(tmp_path, *old("Transformer", "Pooling"), Pooling=config))["pooling"] == pooling


@pytest.mark.parametrize("file", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_length_and_case(tmp_path: Path, file: str) -> None:
    write(tmp_path, *old("Transformer", "Pooling"), Pooling=old_pooling("mean_tokens"))
    write_json(tmp_path, file, {"max_seq_length": 64, "do_lower_case": True})
    assert settings(tmp_path)["max_length"] == 64
    assert settings(tmp_path)["lowercase"] is True
    assert settings(tmp_path, positions=32)["max_length"] == 32
    write_json(tmp_path, file, {"max_seq_length": None, "do_lower_case": False})
    assert "max_length" not in settings(tmp_path)
    write_json(tmp_path, file, {"max_seq_length": 64, "processor_kwargs": {"model_max_length": 48}})
    assert settings(tmp_path)["max_length"] == 48


@pytest.mark.parametrize("length", ["64", 0, -1, True, [64]])
def test_a_length_that_is_no_number_of_tokens(tmp_path: Path, length: Any) -> None:
    write(tmp_path, *old("Transformer", "Pooling"), Pooling=old_pooling("mean_tokens"))
    write_json(tmp_path, "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(BundleError, match="has max_seq_length"):
        settings(tmp_path)


@pytest.mark.parametrize("mode", ["cls_token", "mean_tokens", "max_tokens", "lasttoken"])
def test_whether_the_prompt_is_pooled(tmp_path: Path, mode: str) -> None:
    write(tmp_path, *old("Transformer", "Pooling"), Pooling=old_pooling(mode, include_prompt=False))
    assert settings(tmp_path)["include_prompt"] is False
    write_json(tmp_path / "1_Pooling", "config.json", old_pooling(mode, include_prompt=True))
    assert "include_prompt" not in settings(tmp_path)


@pytest.mark.parametrize("place", ["0_Transformer", "a/b"])
def test_an_encoder_in_a_folder_of_its_own(tmp_path: Path, place: str) -> None:
    entries = [
        {"idx": 0, "name": "0", "path": place, "type": OLD + "Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": OLD + "Pooling"},
    ]
    write_json(tmp_path, "modules.json", entries)
    for folder in (tmp_path / place, tmp_path / "1_Pooling", tmp_path / "other"):
        folder.mkdir(parents=True)
    write_json(tmp_path / "1_Pooling", "config.json", old_pooling("cls_token"))
    write_json(tmp_path / place, "sentence_bert_config.json", {"max_seq_length": 64})
    found = settings(tmp_path / place)
    assert (found["pooling"], found["max_length"]) == ("cls", 64)
    assert settings(tmp_path / "other")["pooling"] == "mean"  # modules.json does not speak of it
    entries[0]["path"] = "a/b/c/d"
    write_json(tmp_path, "modules.json", entries)
    with pytest.raises(BundleError, match="more than 3 folders down"):
        sentence_layout.encoder(tmp_path)


def test_prompts_similarity_and_matryoshka(tmp_path: Path) -> None:
    stated = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    write_json(tmp_path, "config_sentence_transformers.json", stated | {"truncate_dim": 2})
    found = settings(tmp_path)
    assert found["prompts"] == {"query": "query: "}
    assert found["default_prompt"] == "query"
    assert found["similarity"] == "dot"
    assert found["dimensions"] == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_dense_layers_become_arrays(tmp_path: Path, dtype: str) -> None:
    weight, bias = np.arange(8, dtype=dtype).reshape(2, 4), np.ones(2, dtype)
    config = {"in_features": 4, "out_features": 2, "activation_function": "torch.nn.modules.activation.Tanh"}
    write(tmp_path, *old("Transformer", "Pooling", "Dense", "Dense"), Pooling=old_pooling("mean_tokens"), Dense=config)
    save_dense(tmp_path / "2_Dense", weight=weight, bias=bias)
    save_dense(tmp_path / "3_Dense", weight=weight)
    first, second = settings(tmp_path)["dense"]
    assert first == {"activation": "tanh", "weight": "dense_0_weight.npy", "bias": "dense_0_bias.npy"}
    assert second == {"activation": "tanh", "weight": "dense_1_weight.npy"}
    written = np.load(tmp_path / "dense_0_weight.npy")
    assert written.dtype == np.float32
    assert written.tolist() == weight.tolist()
    assert np.load(tmp_path / "dense_0_bias.npy").tolist() == [1, 1]


def test_dense_in_bfloat16(tmp_path: Path) -> None:
    numbers = np.array([[1.0, -2.5], [0.15625, 3e30]], np.float32)  # but the last, all exact in bfloat16
    upper = (numbers.view(np.uint32) >> 16).astype("<u2")
    write(tmp_path, *old("Transformer", "Pooling", "Dense"), Pooling=old_pooling("mean_tokens"), Dense={})
    header = json.dumps({"linear.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    file = len(header).to_bytes(8, "little") + header + upper.tobytes()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(file)
    (layer,) = settings(tmp_path)["dense"]
    assert layer["activation"] == "identity"
    assert np.load(tmp_path / layer["weight"]) == pytest.approx(numbers, rel=1 / 128)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of sentence-transformers and transformers
@pytest.mark.parametrize(
    ("pooling", "include_prompt", "place"),
    [("mean", True, ""), ("lasttoken", True, ""), ("cls", False, "0_Transformer")],
)
def test_vectors_are_those_of_the_model_that_sentence_transformers_saved(
    tmp_path: Path, pooling: str, include_prompt: bool, place: str
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    import edgekit

    parts = [
        modules.Transformer(str(tiny_models.make(tmp_path / "encoder", "bert")), max_seq_length=40, do_lower_case=True),
        modules.Pooling(32, pooling, include_prompt=include_prompt),
        modules.Dense(32, 16, activation_function=torch.nn.Tanh()),
        modules.Dense(16, 12, bias=False, activation_function=torch.nn.Identity()),
        modules.Normalize(),
    ]
    reference = SentenceTransformer(modules=parts, prompts={"query": "Query: "}, device="cpu")
    reference.save(str(tmp_path / "model"))
    if place:
        move_encoder(tmp_path / "model", place)
        reference = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    model, made = str(tmp_path / "model"), tmp_path / "made.ek"
    in_process.export(model, made, trace="an encoder of sentences", targets=["cpu"], precision="fp32")
    texts = [*tiny_models.TEXTS, "UPPER and lower", " spaces ", "long " * 30]
    with edgekit.load(tmp_path / "made.ek") as model:
        assert model.embed(texts, truncate=True) == pytest.approx(reference.encode(texts), abs=2e-6)
        asked = model.embed(texts, prompt="query", truncate=True)
        assert asked == pytest.approx(reference.encode(texts, prompt_name="query"), abs=2e-6)
        assert np.abs(asked - model.embed(texts, truncate=True)).max() > 0.1


def move_encoder(folder: Path, place: str) -> None:
    """To where versions before 2020's kept it."""
    (folder / place).mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            file.rename(folder / place / file.name)
    entries = json.loads((folder / "modules.json").read_text())
    write_json(folder, "modules.json", [{**entries[0], "path": place}, *entries[1:]])


# What is refused, by name

POOLED = old("Transformer", "Pooling")


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([*POOLED, OLD + "LSTM"], "models.LSTM"),
        ([*POOLED, OLD + "WordWeights"], "models.WordWeights"),
        (["custom_st.Transformer", OLD + "Pooling"], "custom_st.Transformer"),
        (["Transformer"], "'Transformer', which"),
        (old("Transformer", "Pooling", "Normalize", "Dense"), "runs Transformer, Pooling, Normalize, Dense"),
        (old("Pooling", "Transformer"), "runs Pooling, Transformer"),
        (old("Transformer", "Pooling", "Pooling"), "runs Transformer, Pooling, Pooling"),
        (old("Transformer"), "runs Transformer"),
        (old("Transformer", "Normalize"), "runs Transformer, Normalize"),
    ],
)
def test_modules_that_would_give_other_vectors(tmp_path: Path, types: list[str], message: str) -> None:
    write(tmp_path, *types, Pooling=old_pooling("mean_tokens"), Dense={})
    if "Dense" in types[-1]:
        save_dense(tmp_path / "3_Dense", weight=np.eye(2, dtype=np.float32))
    with pytest.raises(UnsupportedError, match=message) as caught:
        settings(tmp_path)
    assert "Transformer" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (old_pooling("mean_tokens", "max_tokens"), "mean and max"),
        (old_pooling("weightedmean_tokens"), "pooling_mode_weightedmean_tokens"),
        (old_pooling("mean_sqrt_len_tokens", "cls_token"), "cls and pooling_mode_mean_sqrt_len_tokens"),
        (old_pooling(), "by nothing"),
        ({}, "by nothing"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
    ],
)
def test_poolings_that_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write(tmp_path, *POOLED, Pooling=config)
    with pytest.raises(UnsupportedError, match=message) as caught:
        settings(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "'GELU'"),
        ({"use_residual": True}, "2_Dense has a residual"),
        ({"module_input_name": "token_embeddings"}, "not for one vector a text"),
    ],
)
def test_dense_layers_that_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write(tmp_path, *POOLED, OLD + "Dense", Pooling=old_pooling("mean_tokens"), Dense=config)
    save_dense(tmp_path / "2_Dense", weight=np.eye(2, dtype=np.float32))
    with pytest.raises(UnsupportedError, match=message):
        settings(tmp_path)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda place: (place / "pytorch_model.bin").write_bytes(b"x"),
            BundleError,
            "2_Dense has no model.safetensors",
        ),
        (lambda place: (place / "model.safetensors").write_bytes(b"short"), BundleError, "model.safetensors is bad"),
        (lambda place: save_dense(place, weight=np.eye(2, dtype=np.int8)), UnsupportedError, "'linear.weight' as I8"),
    ],
    ids=["pickled", "damaged", "integers"],
)
def test_dense_weights_that_are_bad(tmp_path: Path, make: Any, kind: type[EdgeKitError], message: str) -> None:
    write(tmp_path, *POOLED, OLD + "Dense", Pooling=old_pooling("mean_tokens"), Dense={})
    make(tmp_path / "2_Dense")
    with pytest.raises(kind, match=message):
        settings(tmp_path)


def test_what_else_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path, "config_sentence_transformers.json", {"similarity_fn_name": "manhattan"})
    with pytest.raises(UnsupportedError, match="'manhattan'"):
        settings(tmp_path)
    (tmp_path / "config_sentence_transformers.json").unlink()
    write(tmp_path, *POOLED, Pooling=old_pooling("mean_tokens"))
    write_json(tmp_path, "sentence_bert_config.json", {"transformer_task": "fill-mask"})
    with pytest.raises(UnsupportedError, match="a fill-mask model"):
        settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "modules.json is not JSON"),
        ("{}", "modules.json is not a JSON list"),
        ("[" * 100_000, "modules.json is not JSON"),
        ('["Transformer"]', "an entry without type and path"),
        ('[{"type": "sentence_transformers.models.Pooling"}]', "an entry without type and path"),
        ('[{"type": "sentence_transformers.models.Pooling", "path": "../other"}]', "out of its folder"),
        ('[{"type": "sentence_transformers.models.Pooling", "path": "/etc"}]', "out of its folder"),
    ],
)
def test_a_modules_file_that_is_bad(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "modules.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        settings(tmp_path)


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    write_json(tmp_path, "config_sentence_transformers.json", ["prompts"])
    with pytest.raises(BundleError, match=r"config_sentence_transformers\.json is not a JSON object"):
        settings(tmp_path)
