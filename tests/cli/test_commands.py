"""The commands as a script sees them: stdout, stderr, exit code. Bundles are real, and small enough to make here."""

from __future__ import annotations

import inspect
import json
import os
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest
import small_bundles
from cli_calls import Call, bundles, call, vectors

from edgekit import registry
from edgekit.cli.main import cli, main
from edgekit.core import Availability
from edgekit.errors import UsageError

__all__ = ["bundles", "call", "vectors"]


# Help


def verbs() -> list[tuple[str, click.Command]]:
    return [("", cli), *cli.commands.items()]


@pytest.mark.parametrize(("name", "verb"), verbs(), ids=lambda value: value if isinstance(value, str) else "")
def test_help_begins_with_examples_that_parse(call: Call, name: str, verb: click.Command) -> None:
    ended = call(*[name] * bool(name), "--help")
    assert (ended.code, ended.err) == (0, "")
    title, *lines = ended.out.splitlines()
    assert title == "Examples:"
    examples = [shlex.split(line.partition("<")[0]) for line in lines[: lines.index("")]]
    assert examples
    for program, command, *words in examples:
        assert program == "edgekit"
        assert not name or command == name
        cli.commands[command].make_context(command, words)  # raises where an example is wrong


def test_help_wins_over_what_is_missing(call: Call) -> None:
    assert call("export", "-h").code == 0


def test_version(call: Call) -> None:
    assert call("--version").out == f"edgekit {import_module('edgekit').__version__}\n"


def test_no_option_is_dead() -> None:
    """Every option of the command is a parameter of the function behind it, and the other way round."""
    offered = {str(param.name) for param in cli.commands["export"].params}
    switches = {"json", "quiet", "verbose", "dry_run"}
    behind = set(inspect.signature(import_module("edgekit.export").export).parameters)
    assert offered - switches == behind - {"progress", "example_inputs"}  # a module is no word of a command line
    planned = set(inspect.signature(import_module("edgekit.workbench.plan").plan).parameters)
    assert planned <= offered


# Usage errors: exit code 2, nothing on stdout, the nearest name


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ([], "no command given", "the commands are: export, run"),
        (["exprot"], "no command named 'exprot'", "did you mean 'export'?"),
        (["chat"], "no command named 'chat'", "that is: edgekit run BUNDLE"),
        (["export", "m", "-o", "b", "--device", "cpu"], "no option --device", "mean '--target'?"),
        (["juggle"], "no command named 'juggle'", "the commands are: export, run"),
        (["export", "m"], "missing option '-o'", "see edgekit export --help"),
        (["export", "m", "-o", "b", "--tagret", "cpu"], "edgekit export has no option --tagret", "mean '--target'?"),
        (["export", "m", "-o", "b", "--zzzzzzzz"], "has no option --zzzzzzzz", "see edgekit export --help"),
        (["--jsno"], "edgekit has no option --jsno", "see edgekit --help"),
        (["export", "m", "-o", "b", "--target", "opnvino"], "no target named 'opnvino'", "did you mean 'openvino'?"),
        (["export", "m", "-o", "b", "--precision", "imt8"], "no precision named 'imt8'", "did you mean 'int8'?"),
        (["export", "m", "-o", "b", "--memory-limit", "lots"], "'lots' is not a size", "512M"),
        (["export", "m", "-o", "b", "--memory-limit", "-1G"], "'-1G' is not a size", "512M"),
        (["export", "m", "-o", "b", "--time-limit", "soon"], "'soon' is not a time", "15m"),
        (["export", "m", "-o", "b", "--time-limit", "0"], "'0' is not a time", "15m"),
        (["export", "m", "-o", "b", "--max-accuracy-loss", "nan"], "'nan' is not a share", "0.01"),
        (["export", "m", "-o", "b", "--max-accuracy-loss", "much"], "'much' is not a share", "0.01"),
        (
            ["export", "m", "-o", "b", "--group-size", "0"],
            "0 is not a whole number from 1",
            "see edgekit export --help",
        ),
        (["run", "b", "-t", "two"], "'two' is not a whole number", "see edgekit run --help"),
        (["list", "target"], "no list named 'target'", "did you mean 'targets'?"),
        (["list", "targets", "more"], "unexpected extra argument", "see edgekit list --help"),
        (["list", "-q", "-v"], "-q and -v exclude each other", None),
        (["export", "m", "-o", "b", "--engine-option", "x"], "'x' is not an engine option", "TARGET:NAME=VALUE"),
        (["run", "b", "-o"], "option '-o' requires an argument", "--help"),
        (["run", "no\nsuch.ek"], "no input", "pipe them in"),
        (["run", "b", "x", "-o", "x.txt"], "cannot write x.txt", ".json"),
        (["run", "b", "x", "-o", "no-such-folder/x.json"], "there is no folder no-such-folder", None),
    ],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_usage(call: Call, words: list[str], said: str, hint: str | None, as_json: bool) -> None:
    """F-E2, F-E3."""
    ended = call(*words[:1], *["--json"] * as_json, *words[1:])
    assert ended.code == 2
    assert "Traceback" not in ended.err
    if as_json and not words:
        said, hint = "edgekit has no option --json", "see edgekit --help"
    error, *hints = ended.err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    if hint:
        assert hints[-1].startswith("hint: ")
        assert hint in hints[-1]
    if as_json:
        assert ended.json["error"]["code"] == "EK-USAGE"
        assert said in ended.json["error"]["message"]
    else:
        assert ended.out == ""


def test_json_behind_the_double_dash_is_an_input(call: Call) -> None:
    ended = call("exprot", "--", "--json")
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("2GB", 2 * 10**9), ("1 kB", 1000), ("1t", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    parsed = cli.commands["export"].make_context("export", ["m", "-o", "b", "--memory-limit", text])
    assert parsed.params["memory_limit"] == size


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("edgekit ins", ["plain,inspect"]),
        ("edgekit export --target open", ["plain,openvino"]),
        ("edgekit export zoo:spe", ["plain,zoo:speaker"]),
        ("edgekit export ./my", ["file,./my"]),
        ("edgekit export --task image-f", ["plain,image-feature-extraction"]),
        ("edgekit run mini", ["plain,minilm.ek"]),
        ("edgekit run inner/", ["plain,inner/a.ek", "plain,inner/b.ek"]),
        ("edgekit run nowhere/", ["file,nowhere/"]),
    ],
)
def test_completion(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    begun: str,
    offered: list[str],
) -> None:
    for name in ("minilm.ek", "inner/a.ek", "inner/b.ek", "inner/c"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_EDGEKIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", begun)
    monkeypatch.setenv("COMP_CWORD", str(begun.count(" ")))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == offered


def test_help_as_a_word(call: Call) -> None:
    assert call("help", "run").out == call("run", "--help").out
    assert call("help").out == call("--help").out
    assert call("-V").out == call("--version").out
    assert "did you mean 'export'?" in call("help", "exprot").err
    assert "1<=x" not in "".join(call(name, "--help").out for name in cli.commands)


# inspect, verify


def test_inspect(call: Call, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("inspect opened an engine")

    monkeypatch.setattr(registry.find("targets", "cpu"), "open", never)
    ended = call("inspect", vectors)
    assert ended.code == 0
    for fact in ("zoo:small (bert)", "feature-extraction", "cpu/fp32", "6.0 kB"):
        assert fact in ended.out
    assert "sha256" not in ended.out
    assert json.loads((vectors / "edgekit.json").read_text())["files"]["model.onnx"]["sha256"] in (
        call("inspect", vectors, "-v").out
    )


def test_inspect_json(call: Call, vectors: Path) -> None:
    found = call("inspect", vectors, "--json").json
    assert found["variants"][0]["name"] == "cpu/fp32"
    assert found["bytes"] == sum(file.stat().st_size for file in vectors.iterdir())
    assert set(found["files"]) == {"model.onnx", "tokenizer.json", "goldens.npz"}


def test_inspect_marks_random_weights(call: Call, tmp_path: Path) -> None:
    assert "random weights: speed only" in call("inspect", small_bundles.make(tmp_path / "r.ek", random=True)).out


@pytest.mark.parametrize("verb", ["inspect", "verify", "run"])
def test_no_bundle_there(call: Call, tmp_path: Path, verb: str) -> None:
    ended = call(verb, tmp_path / "no.ek", "--json", *["x"] * (verb == "run"))
    assert ended.code == 6
    assert ended.json["error"]["code"] == "EK-BUNDLE"


def test_inspect_shows_no_control_characters(call: Call, tmp_path: Path) -> None:
    ended = call("inspect", tmp_path / "\x1b[31mred.ek")
    assert "\x1b" not in ended.err
    assert "\\x1b[31mred.ek" in ended.err


def test_verify(call: Call, vectors: Path) -> None:
    ended = call("verify", vectors)
    assert ended.code == 0
    assert ended.out.splitlines()[1].split()[:2] == ["cpu/fp32", "ok"]
    found = call("verify", vectors, "--target", "cpu", "--json").json
    assert found["ok"] is True
    assert [check["variant"] for check in found["checks"]] == ["cpu/fp32"]


def test_verify_fails(call: Call, tmp_path: Path) -> None:
    folder = small_bundles.make(tmp_path / "s.ek", goldens=True)
    small_bundles.spoil(folder)
    ended = call("verify", folder)
    assert ended.code == 5
    assert "FAILED" in ended.out
    assert ended.err.startswith("error: cpu/fp32 is out of tolerance: ")
    told = call("verify", folder, "--json")
    assert told.code == 5
    assert told.json["ok"] is False
    assert told.json["checks"][0]["ok"] is False
    assert told.json["error"]["code"] == "EK-VERIFY"


# list, doctor


def test_list(call: Call) -> None:
    out = call("list").out
    assert all(title in out for title in ("ARCHITECTURES", "TASKS", "TARGETS", "ZOO"))
    found = call("list", "--json").json
    assert found["architectures"] == registry.names("exporters")
    assert [row["target"] for row in found["targets"]] == registry.names("targets")
    assert [row["name"] for row in found["tasks"]] == [task.name for task in registry.tasks()]
    assert all(model["name"].startswith("zoo:") and model["description"] for model in found["zoo"])


def test_list_one_kind(call: Call) -> None:
    *names, others = call("list", "architectures").out.splitlines()
    assert names == registry.names("exporters")
    assert "other decoder-only language models" in others


def test_list_targets_says_why_not(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    why = Availability("cpu", False, "Engine", "", "it is gone", "fetch it")
    monkeypatch.setattr(registry.find("targets", "cpu"), "probe", lambda: why)
    assert "it is gone; fetch it" in call("list", "targets").out


def test_doctor(call: Call) -> None:
    ended = call("doctor")
    assert ended.code == 0
    assert "onnxruntime" in ended.out
    found = call("doctor", "--json").json
    assert found["device"]["threads"] >= 1
    assert {package["name"] for package in found["packages"]} >= {"numpy", "torch"}


def test_doctor_on_a_machine_without_any_engine(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    none = (Availability("cpu", False, "Engine", "", "it is gone", "pip install engine"),)
    monkeypatch.setattr("edgekit.doctor.targets", lambda: none)
    ended = call("doctor", "--json")
    assert ended.code == 8
    assert ended.json["error"]["code"] == "EK-DEVICE"
    assert "hint: pip install engine" in ended.err


# export


def test_dry_run_checks_the_output(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x.ek").mkdir()
    (tmp_path / "x.ek" / "thesis.txt").touch()
    for place, said in (("none/x.ek", "does not exist"), ("x.ek", "not a bundle"), ("/proc/x.ek", "no new files")):
        ended = call("export", "zoo:motor", "-o", tmp_path / place, "--target", "cpu", "--dry-run", "--force")
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.err


def test_dry_run_says_what_would_be_done(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config.write_text(json.dumps({"model_type": "bert", "vocab_size": 300, **sizes}))
    words = ["export", f"random:{config}", "-o", tmp_path / "x.ek", "--target", "cpu", "--dry-run"]
    ended = call(*words)
    assert ended.code == 0
    assert "cpu/int8-dynamic" in ended.out
    assert call(*words, "--json").json["choices"][0]["target"] == "cpu"
    assert sorted(os.listdir(tmp_path)) == ["config.json"]
    assert call(*words, "--memory-limit", "1M").code == 7


def test_export_refuses_what_is_unknown(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "bertt", "vocab_size": 300}))
    ended = call("export", f"random:{config}", "-o", tmp_path / "x.ek", "--json")
    assert ended.code == 4
    assert ended.json["error"]["code"] == "EK-UNSUPPORTED"


@pytest.mark.slow
def test_export_run_verify(call: Call, tmp_path: Path) -> None:
    config, folder = tmp_path / "config.json", tmp_path / "x y.ek"
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config.write_text(json.dumps({"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 64, **sizes}))
    ended = call("export", f"random:{config}", "-o", folder, "--target", "cpu", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["variants"][0]["name"] == "cpu/int8-dynamic"
    assert "trace: " in ended.err
    assert call("export", f"random:{config}", "-o", folder, "--target", "cpu").code != 0
    assert len(call("run", folder, "a", "--json").json["results"][0]) == 32
    assert call("verify", folder).code == 0


def test_usage_error_type_is_ours() -> None:
    with pytest.raises(UsageError):
        cli.make_context("edgekit", [])
