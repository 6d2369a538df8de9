"""A session is forked and saved, and another process goes on: what it gives is what the uninterrupted one gives.

Models of every kind of state: a KV cache, a state space, both in one, and the cells of an LSTM; on every target here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_chat
import torch_recurrent
from built_decoders import config_of, folder_of

import edgekit
from edgekit import registry

pytestmark = pytest.mark.slow
HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
DECODERS = {"KV cache": "llama", "state space": "mamba", "hybrid": "falcon_h1"}
NEW = 12
SERIES = np.random.default_rng(0).normal(0, 1, (20, torch_recurrent.FEATURES)).astype(np.float32)
# What the other process does, of either kind of model.
GO_ON = """
import json, sys
import edgekit
bundle, target, file, kind, rest = sys.argv[1:]
with edgekit.load(bundle, target=target, threads=1) as model, model.session() as session:
    session.load(file)
    if kind == "lstm":
        found = [session.step(x).tolist() for x in json.loads(rest)]
    else:
        found = session.generate(rest, max_new_tokens=12, temperature=0).ids
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Talk:
    """What a session is told first and then, and what it gives; `begin` leaves it in the middle."""

    begin: Callable[[Any], Any]
    go_on: Callable[[Any], Any]
    rest: str


def chat() -> Talk:
    def begin(session: Any) -> Any:
        return session.generate(" one two three", max_new_tokens=NEW, temperature=0).ids

    def go_on(session: Any) -> Any:
        return list(session.generate(" four", max_new_tokens=NEW, temperature=0).ids)

    return Talk(begin, go_on, " four")


def stream() -> Talk:
    def begin(session: Any) -> Any:
        return session.feed(SERIES[:12])

    def go_on(session: Any) -> Any:
        return [session.step(x).tolist() for x in SERIES[12:]]

    return Talk(begin, go_on, json.dumps(SERIES[12:].tolist()))


@pytest.fixture(scope="module", params=[*DECODERS, "lstm"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Talk]:
    kind, home = request.param, tmp_path_factory.mktemp("resumed")
    if kind == "lstm":
        torch_recurrent.trained(home / "model", "lstm", num_layers=2)
    else:
        folder_of(home / "model", config_of(DECODERS[kind]))
        tiny_chat.make_tokenizer().save(str(home / "model" / "tokenizer.json"))
        (home / "model" / "tokenizer_config.json").write_text("{}")
    in_process.export(str(home / "model"), home / "made.ek", targets=HERE, precision="fp32")
    return home / "made.ek", kind, stream() if kind == "lstm" else chat()


@pytest.mark.parametrize("target", HERE)
def test_another_process_goes_on(made: tuple[Path, str, Talk], target: str, tmp_path: Path) -> None:
    bundle, kind, talk = made
    with edgekit.load(bundle, target=target, threads=1) as model, model.session() as session:
        talk.begin(session)
        fork = session.fork()
        fork.save(tmp_path / "state")
        wanted = talk.go_on(session)
        again = talk.go_on(fork)
    np.testing.assert_allclose(again, wanted, rtol=1e-5)
    words = [str(bundle), target, str(tmp_path / "state"), kind, talk.rest]
    done = subprocess.run([sys.executable, "-c", GO_ON, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), wanted, rtol=1e-5)
