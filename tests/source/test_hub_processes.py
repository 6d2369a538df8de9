"""The hub, by fresh processes: what they are told, and what they leave behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import Hub, pointed_at

WEIGHTS = bytes(range(256)) * 400
TOKEN = "hf_SecretSecretSecretSecretSecret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub with one model."""
    with pointed_at(monkeypatch, tmp_path / "cache") as running:
        running.repos["tiny/model"] = {"config.json": b"{}", "model.safetensors": WEIGHTS}
        yield running


CHILD = """
import resource, signal, sys
from edgekit.source import hub
from edgekit.errors import EdgeKitError
if sys.argv[1:]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    snapshot = hub.find("tiny/model")
    print(hub.download(snapshot, sorted(snapshot.digests)))
except EdgeKitError as error:
    print(error.exit_code, error.message)
"""


def child(server: Hub, tmp_path: Path, *arguments: str, **environment: str) -> str:
    """What a fresh process prints, whose only knowledge of the hub is its environment."""
    known = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, **environment}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env=os.environ | known,
        capture_output=True,
        text=True,
        check=True,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_only_the_environment_is_needed(server: Hub, tmp_path: Path) -> None:
    folder = Path(child(server, tmp_path))
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).digest() == hashlib.sha256(WEIGHTS).digest()
    asked = len(server.requests)
    assert Path(child(server, tmp_path, HF_HUB_OFFLINE="1")) == folder
    assert len(server.requests) == asked


def test_disk_full(server: Hub, tmp_path: Path) -> None:
    """A limit on a file's size fails like a full disk, in the middle of the weights."""
    assert child(server, tmp_path, "60000").startswith("7 no space on the disk for model.safetensors")
    assert not list((tmp_path / "home").rglob("*.safetensors"))
