"""Export the zoo here, run it on emulated Arm cores, and compare: `make arm`.

    python tests/arm/walk.py [--folder .arm] [--cpu cortex-a53]... [--zoo motor]... [--if-possible]

Each model of the zoo becomes a bundle with every precision that its kind has on cpu. device_half.py runs it natively
and on each core: its goldens, each method, and a session that was saved on the other architecture. The table has a line
a variant and core; the exit code is 1 if one of them is wrong. Emulation needs QEMU and a Debian of arm64, which
python.sh installs as root from Debian's index; --if-possible ends quietly, with the reason, where that cannot be had.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit import registry, zoo
from edgekit.core import Precision
from edgekit.source.resolve import resolve
from edgekit.text_table import table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORES = ("cortex-a53", "cortex-a72")
WIDTH = 512  # of the product of extremes
NEAR = 0.05  # of the largest number: int8 kernels round in other places


def export(names: list[str], folder: Path) -> None:
    """A bundle of each model, with what its kind is usually quantized to beside fp32."""
    for name in names:
        kind = registry.exporter(resolve(f"zoo:{name}").arch).kind
        precisions: tuple[Precision, ...] = ("fp32", "int8", "int4") if kind == "decoder" else ("fp32", "int8")
        edgekit.export(f"zoo:{name}", folder / f"{name}.ek", targets=["cpu"], precision=precisions, force=True)


def write_extremes(file: Path) -> None:
    """A product of bytes by the largest weights, whose sums overflow 16 bits where two of them meet there."""
    from onnx import TensorProto, helper, numpy_helper, save

    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (WIDTH, WIDTH))
    signs[:, : WIDTH // 2] = 1
    constants = [numpy_helper.from_array(array, name) for name, array in (("b", 127 * signs), ("zero", np.uint8(128)))]
    node = helper.make_node("MatMulInteger", ["a", "b", "zero"], ["y"])
    a = helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, ["m", WIDTH])
    graph = helper.make_graph([node], "extremes", [a], [y], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    np.savez(file.with_suffix(".npz"), b=127 * signs)


def run(command: list[str], bundles: Path, out: Path, resume: Path | None, cpu: str = "") -> dict[str, Any]:
    """What device_half.py wrote, started by `command`."""
    shutil.rmtree(out, ignore_errors=True)
    words = [*command, str(HERE / "device_half.py"), str(bundles), str(out)]
    words += ["--resume", str(resume)] if resume else []
    places = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out.parent / f"{out.name}-cache"), "CPU": cpu}
    done = subprocess.run(words, env=os.environ | places, capture_output=True, text=True, check=False)
    if not (out / "answers.json").is_file():
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    print(done.stderr[-3000:] if done.returncode else "", end="", file=sys.stderr)
    report: dict[str, Any] = json.loads((out / "answers.json").read_text())
    return report


def judged(native: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What is wrong in one variant's outcome on the other core; empty if nothing is."""
    if "error" in there or "error" in native:
        return [there.get("error") or f"here: {native['error']}"]
    wrong = [f"verify: {there['verify']}"] if there["verify"] else []
    wrong += [name for name, answer in there["methods"].items() if not same(native["methods"][name], answer)]
    if "saved" in native and not same(native["saved"], there["resumed"]):
        wrong.append("a session that was saved here goes on in another way there")
    return wrong


def same(one: Any, other: Any) -> bool:
    """Equal texts and labels; numbers near one another."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, (float, int)):
        return math.isclose(one, other, rel_tol=NEAR, abs_tol=NEAR)
    return bool(one == other)


def obstacle() -> str:
    """Why no Arm can be emulated here; empty where it can be tried."""
    if shutil.which("qemu-aarch64-static") and shutil.which("debootstrap"):
        return ""
    if os.geteuid() or not shutil.which("apt-get"):
        return "QEMU and debootstrap are not installed, and only root on Debian can install them"
    tried = subprocess.run(["apt-get", "update", "-qq"], capture_output=True, text=True, check=False)
    return f"apt-get update: {tried.stderr.strip()[:200]}" if tried.returncode or "E:" in tried.stderr else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".arm"))
    parser.add_argument("--cpu", action="append", help=f"of QEMU; repeat for more [{', '.join(CORES)}]")
    parser.add_argument("--zoo", action="append", choices=zoo.names(), help="repeat for more [all]")
    parser.add_argument("--if-possible", action="store_true", help="end quietly where nothing can be emulated")
    args = parser.parse_args()
    home = args.folder.resolve()
    if not (home / "python" / "ready").is_file() and args.if_possible and (why := obstacle()):
        print(f"arm: left out: {why}")
        return
    bundles = home / "bundles"
    shutil.rmtree(bundles, ignore_errors=True)
    bundles.mkdir(parents=True)
    export(args.zoo or zoo.names(), bundles)
    write_extremes(bundles / "extremes.onnx")
    native = run([sys.executable], bundles, home / "native", None)
    rows = []
    for cpu in args.cpu or CORES:
        there = run(["bash", str(HERE / "python.sh"), str(home / "python")], bundles, home / cpu, home / "native", cpu)
        wrong = there["extremes"]
        rows.append(("extremes", "u8 by s8", cpu, " ".join(there["features"]), wrong or "right"))
        for name, outcome in there["outcomes"].items():
            wrong = judged(native["outcomes"][name], outcome)
            rows.append((*name.split(), cpu, " ".join(there["features"]), "; ".join(wrong) or "right"))
    print(table(("bundle", "variant", "core", "features", "outcome"), rows))
    sys.exit(any(row[-1] != "right" for row in rows))


if __name__ == "__main__":
    main()
