"""A chat model all the way: a Hugging Face folder, a bundle, answers; held against transformers."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, raise_signal
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_chat
from chat_bundles import HELLO, HERE, bundle, folder, model
from cli_calls import Call, call

import edgekit
from edgekit import zoo
from edgekit.errors import InputError, UnsupportedError, UsageError, VerificationError
from edgekit.model import Model
from edgekit.results import Result
from edgekit.zoo.metrics import METRICS

__all__ = ["bundle", "call", "folder", "model"]
PROMPTS = ["the quick", "one two three four five six seven", "你好 🙂"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def transformer(folder: Path) -> Callable[[list[int], int], list[int]]:
    """Greedy ids from transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()

    def go_on(ids: list[int], count: int) -> list[int]:
        found = loaded.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
        return list(found[0][len(ids) :].tolist())

    return go_on


def ids_of(model: Model, prompt: Any) -> list[int]:
    (array,) = model.encode([prompt])
    return list(array.tolist())


@pytest.mark.parametrize("prompt", [*PROMPTS, HELLO, [5, 6, 7]], ids=str)
def test_greedy_is_that_of_transformers(model: Model, transformer: Any, prompt: Any) -> None:
    result = model.generate(prompt, max_new_tokens=16)
    assert list(result.ids) == transformer(ids_of(model, prompt), 16)
    assert result.usage == {"prompt_tokens": len(ids_of(model, prompt)), "new_tokens": len(result.ids)}


def test_pieces_are_the_answer(model: Model) -> None:
    whole = model.generate(PROMPTS[0], max_new_tokens=20)
    pieces = list(model.generate(PROMPTS[0], max_new_tokens=20, stream=True))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(id for piece in pieces for id in piece.ids) == whole.ids


def test_a_batch_of_unequal_prompts_is_each_by_itself(model: Model) -> None:
    together = list(model.run(PROMPTS, max_new_tokens=12))
    assert [answer.ids for answer in together] == [model.generate(one, max_new_tokens=12).ids for one in PROMPTS]


def test_a_prompt_in_chunks_is_the_same_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = " ".join(PROMPTS[1].split() * 2)
    whole = model.generate(prompt, max_new_tokens=8)
    monkeypatch.setattr(model.session_of(), "chunk_tokens", 5)
    assert model.generate(prompt, max_new_tokens=8).ids == whole.ids


def test_an_end_token_ends(model: Model) -> None:
    free = model.generate(PROMPTS[0], max_new_tokens=10)
    ended = model.generate(PROMPTS[0], max_new_tokens=10, stop_ids=[free.ids[3]])
    assert (ended.ids, ended.finish_reason) == (free.ids[: free.ids.index(free.ids[3]) + 1], "stop")
    assert free.finish_reason == "length"


def test_the_context_ends_an_answer_and_never_cuts_a_prompt(model: Model) -> None:
    room = model.bundle.settings["context_length"]
    full = model.generate([5] * room, max_new_tokens=9)
    assert (len(full.ids), full.finish_reason) == (1, "length")
    with pytest.raises(InputError, match=f"{room + 1} tokens, and the context holds {room}"):
        model.generate([5] * (room + 1))


def test_the_same_seed_is_the_same_answer(model: Model) -> None:
    first, second, other = (
        model.generate(PROMPTS[0], max_new_tokens=12, temperature=1.5, seed=seed) for seed in (3, 3, 4)
    )
    assert first.ids == second.ids != other.ids
    assert first.seed == 3


def test_closing_an_answer_frees_the_model_for_the_next(model: Model) -> None:
    pieces = model.generate(PROMPTS[0], max_new_tokens=50, stream=True)
    next(iter(pieces))
    pieces.close()  # type: ignore[attr-defined]
    assert model.generate(PROMPTS[0], max_new_tokens=3).ids


def test_asyncio(model: Model) -> None:
    async def whole() -> str:
        return "".join([piece.text async for piece in model.agenerate(PROMPTS[0], max_new_tokens=9)])

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def endless() -> None:
            async for _ in model.agenerate(PROMPTS[0], max_new_tokens=100):
                begun.set()

        task = asyncio.create_task(endless())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert asyncio.run(whole()) == model.generate(PROMPTS[0], max_new_tokens=9).text
    asyncio.run(cancelled())


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_prompt_is_read_no_further(model: Model, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is cancelled while the engine is at work, which nobody can interrupt."""
    began, may_end, runs, run = threading.Event(), threading.Event(), list[int](), model.session_of().run

    def slow(feeds: Any, state: Any) -> Any:
        runs.append(int(feeds["counts"][0]))
        began.set()
        assert may_end.wait(300)
        return run(feeds, state)

    monkeypatch.setattr(model.session_of(), "run", slow)
    monkeypatch.setattr(model.session_of(), "chunk_tokens", 4, raising=False)

    async def all_of_it() -> None:
        async for _ in model.agenerate([5] * 40, max_new_tokens=3):
            pass

    async def cancelled() -> None:
        task = asyncio.create_task(all_of_it())
        await asyncio.to_thread(began.wait, 30)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert runs == [4]


def test_options_that_make_no_sense(model: Model) -> None:
    with pytest.raises(UsageError, match="no option 'temprature'"):
        model.generate("a", temprature=1)
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        model.generate("a", max_new_tokens=0)
    with pytest.raises(UsageError, match="17 stop strings"):
        model.generate("a", stop=["x"] * 17)
    with pytest.raises(UsageError, match="a stop string is ''"):
        model.generate("a", stop="")
    with pytest.raises(UnsupportedError, match=r"has no embed\(\)"):
        model.embed("a")


def test_run_speaks(call: Call, bundle: Path) -> None:
    words = ("run", bundle, "the quick", "--max-new-tokens", "6", "--target", "cpu", "--precision", "fp32")
    ended = call(*words, "-v")
    with edgekit.load(bundle, target="cpu", precision="fp32") as opened:
        prompt = [{"role": "user", "content": "the quick"}]
        wanted = opened.generate(prompt, max_new_tokens=6).text
    assert (ended.code, ended.out) == (0, wanted + "\n")
    assert "6 tokens, the first after" in ended.err
    quiet = call(
        "run", bundle, "the quick", "--max-new-tokens", "6", "--target", "cpu", "--precision", "fp32", "--no-stream"
    )
    assert quiet.out == ended.out


def test_run_takes_all_of_stdin_as_one_prompt(call: Call, bundle: Path) -> None:
    ended = call("run", bundle, "--json", "--max-new-tokens", "2", "--system", "be brief", stdin=b"one\ntwo\n")
    (result,) = ended.json["results"]
    assert result["usage"]["new_tokens"] == 2
    assert result["finish_reason"] == "length"


def test_a_chat_on_the_terminal(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.cli import chat
    from edgekit.cli.console import Console

    said = iter(["one two", "", "three", "/reset", "one two", "x" * 500, "/help", SIGINT, SIGINT])

    def read() -> str:
        line = next(said, None)
        if line is None:
            raise EOFError
        if line == SIGINT:
            raise_signal(SIGINT)
        return str(line)

    options = {"max_new_tokens": 4, "chat_template_kwargs": None}
    with edgekit.load(bundle, target="cpu", precision="fp32") as opened:
        chat.converse(Console(), opened, None, options, read)
        first = opened.generate(HELLO, max_new_tokens=4).text
        for end in ("/bye", "/exit"):
            chat.converse(Console(), opened, None, {}, iter([end]).__next__)
    out, err = capsys.readouterr()
    assert out.count(first) == 2
    assert f"Chat with {bundle.name}, cpu/fp32. {chat.COMMANDS}" in err
    assert err.count(chat.COMMANDS) == 4
    assert err.count("new chat\n") == 1
    assert err.count("Ctrl-D or /bye ends the chat") == 2
    assert "the context holds 128" in err


def test_a_chat_ends_with_its_terminal(bundle: Path) -> None:
    from edgekit.cli import chat
    from edgekit.cli.console import Console
    from edgekit.cli.signals import Interrupted

    def read() -> str:
        raise_signal(SIGHUP)
        return ""

    with edgekit.load(bundle, target="cpu", precision="fp32") as opened, pytest.raises(Interrupted) as ended:
        chat.converse(Console(), opened, None, {}, read)
    assert ended.value.number == SIGHUP


def test_a_seed_is_said_where_chance_chooses(call: Call, bundle: Path) -> None:
    words = ("run", bundle, "the", "--max-new-tokens", "2", "--target", "cpu", "--precision", "fp32", "-v")
    assert "seed" not in call(*words).err
    assert "seed 7" in call(*words, "--temperature", "1", "--seed", "7").err


def test_options_of_the_template_and_of_the_prompt_on_the_command_line(call: Call, bundle: Path) -> None:
    words = ("run", bundle, "the", "--max-new-tokens", "2", "--target", "cpu", "--precision", "fp32")
    unknown = call(*words, "--template-option", "enable_thinking=false")
    assert (unknown.code, "does not use 'enable_thinking'" in unknown.err) == (2, True)
    nameless = call(*words, "--template-option", "enable_thinking")
    assert (nameless.code, "'enable_thinking' has no name" in nameless.err) == (2, True)
    text = "<|im_start|>user\nthe"
    words = ("run", bundle, "-p", text, "--max-new-tokens", "2", "--target", "cpu", "--precision", "fp32", "--json")
    (raw,) = call(*words, "--parse-special").json["results"]
    with edgekit.load(bundle, target="cpu", precision="fp32") as opened:
        assert raw["ids"] == list(opened.generate(text, max_new_tokens=2, parse_special=True).ids)


def test_a_model_without_a_template_goes_on_from_a_text(tmp_path: Path, call: Call) -> None:
    from edgekit.cli import chat
    from edgekit.cli.console import Console

    folder = tiny_chat.save(tmp_path / "plain", template=None, num_hidden_layers=1)
    made = tmp_path / "plain.ek"
    in_process.export(str(folder), made, targets=["cpu"], precision="fp32")
    with edgekit.load(made) as opened:
        assert isinstance(opened.generate("the", max_new_tokens=2), Result)
        with pytest.raises(InputError, match="no chat template"):
            opened.generate(HELLO)
        with pytest.raises(UsageError, match=r"plain.ek has no chat template to chat with"):
            chat.converse(Console(), opened, None, {})
    assert call("run", made, "the", "--max-new-tokens", "2").code == 0
    assert "--system needs a model with a chat template" in call("run", made, "the", "--system", "be brief").err


def test_a_config_alone_makes_a_bundle_that_says_so(tmp_path: Path, folder: Path, call: Call) -> None:
    made = tmp_path / "random.ek"
    bundle = edgekit.export(f"random:{folder / 'config.json'}", made, targets=["cpu"])
    assert [variant.name for variant in bundle.variants] == ["cpu/int4-g32-rtn"]
    assert bundle.source.random
    assert all(check.ok for check in edgekit.verify(made))
    assert "random weights" in call("run", made, "the", "--max-new-tokens", "2").err


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("name", ["speaker", "teller"])
def test_the_zoo_says_numbers_that_it_never_saw(
    exported: Callable[..., Path], name: str, target: str, precision: str
) -> None:
    test = zoo.heldout(name, "text-generation")
    made = exported(f"zoo:{name}")
    with edgekit.load(made, target=target, precision=precision) as opened:
        said = [answer.text for answer in opened.run(test.inputs[:100])]
    assert METRICS[test.metric](test.expected[:100], said) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_zoos_speaker_says_the_same_from_caches_in_8_bits(exported: Callable[..., Path], precision: str) -> None:
    """Token by token, and no number wrong that is right from caches in float32; the gate loses hardly more."""
    test, said, losses = zoo.heldout("speaker", "text-generation"), [], []
    for asked in ({}, {"kv_cache": "int8"}):
        options = {"targets": ("cpu",), "precision": ("int8", "int4"), "engine_options": {"cpu": asked}}
        made = exported("zoo:speaker", **(options if asked else {}))
        with edgekit.load(made, target="cpu", precision=precision) as opened:
            assert opened.variant.options == asked
            said.append([answer.text for answer in opened.run(test.inputs[:200])])
            losses.append(opened.variant.measured["loss"])
    assert METRICS[test.metric](test.expected[:200], said[1]) >= METRICS[test.metric](test.expected[:200], said[0])
    assert losses[1] <= losses[0] + 2e-3


def test_room_for_the_answer_is_there_from_the_start(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    session = model.session_of()
    start = session.start
    monkeypatch.setattr(session, "start", lambda batch, capacity: asked.append(capacity) or start(batch, capacity))
    model.generate([5, 6, 7], max_new_tokens=40)
    model.generate([5] * 120, max_new_tokens=40)
    assert asked == [42, 128]  # the last token that is chosen is never computed


def test_pieces_of_a_result_are_kept_where_they_say_more(model: Model) -> None:
    assert model.generate("a", max_new_tokens=2).pieces == ()
    told = model.generate("a", max_new_tokens=2, logprobs=3).pieces
    assert [len(piece.top) for piece in told] == [3, 3]


def test_weights_that_are_no_numbers_are_refused_and_nothing_is_published(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    tensors = load_file(bad / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match="up_proj"):
        edgekit.export(str(bad), tmp_path / "bad.ek", targets=["cpu"])
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_each_graph_is_built_once(folder: Path, tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    in_process.export(
        str(folder), tmp_path / "chat.ek", targets=["cpu"], precision="fp32", progress=lambda *each: said.append(each)
    )
    assert sum("layer 1 of 2" in what for _, what in said) == 1
