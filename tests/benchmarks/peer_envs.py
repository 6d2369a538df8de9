"""Makes the environments of the peers that EdgeKit is measured against; those that work already are kept.

    python tests/benchmarks/peer_envs.py --folder .peers

The peers cannot share one: optimum-onnx wants transformers below 4.58, optimum-intel below 5.6, sentence-transformers,
fastembed and ONNX Runtime GenAI take the newest. About 7 GB in all. An environment that cannot
be made is named with the reason, and the benchmarks leave its peers out. torch comes first and by itself, or several GB
of CUDA packages come with the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from contenders import cpu_facts

TORCH = "torch==2.13.0"
# llama.cpp is compiled here (a quarter of an hour on two cores) for what this CPU has, by the names of Linux and its
# own; but without AMX: that code of it was seen to crash.
FEATURES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "bmi2": "BMI2",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
}
LLAMA = " ".join([
    "-DGGML_NATIVE=OFF",
    *(f"-DGGML_{name}={'ON' if feature in cpu_facts()[1] else 'OFF'}" for feature, name in FEATURES.items()),
])  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    packages: tuple[str, ...]
    check: str  # what must be importable
    # Installed without what they ask for: optimum-intel asks for torchvision, which brings a CUDA torch and which no
    # text model needs.
    alone: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)  # the environment of pip


ENVIRONMENTS = {
    "peers": Recipe(
        packages=("sentence-transformers==6.2.0", "fastembed==0.9.1", "onnxruntime==1.31.1"),
        check="torch, sentence_transformers, fastembed",
    ),
    "peers-onnx": Recipe(
        packages=("sentence-transformers<6", "optimum-onnx==0.1.0", "transformers<4.58", "onnx", "onnxruntime==1.31.1"),
        check="torch, sentence_transformers, onnx, optimum.onnxruntime",
    ),
    "peers-openvino": Recipe(
        packages=(
            "sentence-transformers==6.2.0",
            "transformers<5.6",
            "optimum==2.3.0",
            "openvino==2026.4.1",
            "openvino-tokenizers==2026.4.1",
            "openvino-genai==2026.4.1",
            "nncf==3.4.0",
            "huggingface-hub>=1.5,<1.22",
            "datasets<5",
        ),
        check="torch, sentence_transformers, datasets, nncf, optimum.intel, openvino_genai",
        alone=("optimum-intel==2.2.0",),
    ),
    "peers-genai": Recipe(
        packages=("onnxruntime-genai==0.18.0", "transformers==5.23.0", "onnx", "onnx-ir"),
        check="torch, transformers, onnxruntime_genai",
    ),
    "peers-llama": Recipe(
        packages=("llama-cpp-python", "gguf", "numpy"), check="llama_cpp, gguf", settings={"CMAKE_ARGS": LLAMA}
    ),
}


def works(python: Path, recipe: Recipe) -> bool:
    return (
        python.exists() and not subprocess.run([python, "-c", f"import {recipe.check}"], capture_output=True).returncode
    )


def make(folder: Path, recipe: Recipe) -> str:
    """The environment, made or kept. Returns what went wrong, or nothing."""
    python = folder / "bin" / "python"
    if works(python, recipe):
        return ""
    venv.create(folder, with_pip=True, clear=True, symlinks=True)
    for options in ((TORCH,), (TORCH, *recipe.packages), *(("--no-deps", name) for name in recipe.alone)):
        command, told = [python, "-m", "pip", "install", "--quiet", *options], os.environ | recipe.settings
        done = subprocess.run(command, env=told, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return errors[-1] if errors else f"pip ended with {done.returncode}"
    return "" if works(python, recipe) else f"installed, but one of these does not import: {recipe.check}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".peers"), help="where to make them (default: .peers)")
    parser.add_argument("--only", choices=ENVIRONMENTS, action="append", help="make this one (may be repeated)")
    args = parser.parse_args()
    failed = False
    for name in args.only or ENVIRONMENTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        why = make(args.folder / name, ENVIRONMENTS[name])
        print(f"{name}: {why or 'ready'}")
        failed |= bool(why)
    sys.exit(failed)


if __name__ == "__main__":
    main()
