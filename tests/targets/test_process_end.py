"""How a process ends that has an engine open: forked children, and daemon threads that are inside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit import registry

HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("target", HERE)]

FORK = """
import os, sys, edgekit
model = edgekit.load({bundle!r}, target={target!r}, threads={threads})
{use}
child = os.fork()
if child == 0:
    {child}
    raise SystemExit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
THREAD = """
import threading, time, edgekit
{load}
started = threading.Event()
def work():
    while True:
        {use}
        started.set()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep({wait})
"""
GENERATE = "model.generate('347 =', max_new_tokens=40)"


def run(code: str) -> tuple[int, str]:
    """The exit code and stderr; a process that does not end fails."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("child", ["pass", "model.close()"])
def test_a_forked_child_ends(target: str, threads: int, child: str, exported: Callable[..., Path]) -> None:
    bundle = str(exported("zoo:speaker"))
    assert run(FORK.format(bundle=bundle, target=target, threads=threads, use=GENERATE, child=child)) == (3, "")


def test_a_forked_child_of_a_chat_ends(target: str, exported: Callable[..., Path]) -> None:
    bundle = str(exported("zoo:speaker"))
    use = f"pieces = {GENERATE[:-1]}, stream=True); next(pieces)"
    assert run(FORK.format(bundle=bundle, target=target, threads=2, use=use, child="pass")) == (3, "")


def test_a_forked_child_loads_its_own(target: str, exported: Callable[..., Path]) -> None:
    bundle = str(exported("zoo:parity"))
    child = f"edgekit.load({bundle!r}, target={target!r}, threads=1).embed(['one'])"
    code = FORK.format(bundle=bundle, target=target, threads=1, use="model.embed(['one'])", child=child)
    assert run(code) == (3, "")


@pytest.mark.parametrize("wait", [0.0, 0.013, 0.1])
def test_daemon_threads_that_generate(target: str, wait: float, exported: Callable[..., Path]) -> None:
    load = f"model = edgekit.load({str(exported('zoo:speaker'))!r}, target={target!r})"
    assert run(THREAD.format(load=load, use=GENERATE, wait=wait)) == (0, "")


@pytest.mark.parametrize(
    ("zoo", "use"),
    [
        ("zoo:parity", "model.embed(['zero one two three'] * 50)"),
        ("zoo:motor", "model.answer([model.item(each) for each in model.samples(model.bundle)])"),
        ("zoo:parity", "edgekit.load(model.bundle.folder, target=model.variant.target).close()"),
    ],
    ids=["batches", "streams", "opening"],
)
def test_daemon_threads_of_other_tasks(target: str, zoo: str, use: str, exported: Callable[..., Path]) -> None:
    load = f"model = edgekit.load({str(exported(zoo))!r}, target={target!r})"
    assert run(THREAD.format(load=load, use=use, wait=0.02)) == (0, "")


def test_the_thread_that_exits_may_still_run(target: str, exported: Callable[..., Path]) -> None:
    """What was registered before edgekit was imported runs after it."""
    code = (
        "import atexit; atexit.register(lambda: print(model.generate('12 =').text))\n"
        f"import edgekit; model = edgekit.load({str(exported('zoo:speaker'))!r}, target={target!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "twelve")


LOADS = """
import os, edgekit
counts = []
for _ in range(6):
    edgekit.load({bundle!r}, target={target!r}, threads=2).close()
    counts.append(len(os.listdir("/proc/self/task")))
assert counts[1] == counts[-1], counts
"""


@pytest.mark.parametrize("zoo", ["zoo:speaker", "zoo:teller", "zoo:parity", "zoo:motor"])
def test_a_closed_model_leaves_no_thread(target: str, zoo: str, exported: Callable[..., Path]) -> None:
    """Language models with blocks and with variables, batches and streams."""
    assert run(LOADS.format(bundle=str(exported(zoo)), target=target)) == (0, "")
