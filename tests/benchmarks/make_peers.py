"""Makes the files that one contender loads, each in the way that its own documentation says.

    python tests/benchmarks/make_peers.py onnx|openvino|fastembed|edgekit MODEL_FOLDER OUT

`onnx`: sentence-transformers' ONNX export, its O3 optimization and its dynamic int8 quantization. `openvino`: its
OpenVINO export and its static int8 quantization, calibrated on sentences of our own. `fastembed`: those ONNX files
(OUT's sibling `st-onnx`) laid out as fastembed wants a local model. `edgekit`: our bundle.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sentences import sentences

CALIBRATION_SEED = 4711  # other sentences than those that are measured


def make_onnx(model: Path, out: Path) -> None:
    from sentence_transformers import (
        SentenceTransformer,
        export_dynamic_quantized_onnx_model,
        export_optimized_onnx_model,
    )

    exported = SentenceTransformer(
        str(model), device="cpu", backend="onnx", model_kwargs={"export": True, "provider": "CPUExecutionProvider"}
    )
    exported.save_pretrained(str(out))
    options = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"}
    saved = SentenceTransformer(str(out), device="cpu", backend="onnx", model_kwargs=options)
    export_optimized_onnx_model(saved, "O3", str(out))
    export_dynamic_quantized_onnx_model(saved, "avx512_vnni", str(out))


def make_openvino(model: Path, out: Path) -> None:
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    exported = SentenceTransformer(str(model), device="cpu", backend="openvino", model_kwargs={"export": True})
    exported.save_pretrained(str(out))
    saved = SentenceTransformer(
        str(out), device="cpu", backend="openvino", model_kwargs={"file_name": "openvino/openvino_model.xml"}
    )
    calibration = out / "calibration"
    calibration.mkdir()
    rows = [json.dumps({"sentence": text}) for text in sentences(300, CALIBRATION_SEED)]
    (calibration / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    export_static_quantized_openvino_model(
        saved,
        OVQuantizationConfig(num_samples=300),
        str(out),
        dataset_name=str(calibration),
        dataset_config_name="default",
        dataset_split="train",
        column_name="sentence",
    )


def make_fastembed(model: Path, out: Path) -> None:
    files = {"fp32": "model.onnx", "O3": "model_O3.onnx", "int8": "model_qint8_avx512_vnni.onnx"}
    for name, file in files.items():
        folder = out / name
        folder.mkdir(parents=True)
        shutil.copy(out.parent / "st-onnx" / "onnx" / file, folder / "model.onnx")
        for part in ("config.json", "tokenizer.json", "special_tokens_map.json"):
            shutil.copy(model / part, folder)
        settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings["model_max_length"] = 256  # where sentence-transformers cuts this model's texts
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def make_edgekit(model: Path, out: Path) -> None:
    import edgekit

    edgekit.export(str(model), str(out), precision=("fp32", "bf16", "int8"), targets=("cpu", "openvino"))


MAKERS = {"onnx": make_onnx, "openvino": make_openvino, "fastembed": make_fastembed, "edgekit": make_edgekit}


def command(makers: Mapping[str, Callable[[Path, Path], None]], description: str | None) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=makers)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    makers[args.kind](args.model, args.out)


if __name__ == "__main__":
    command(MAKERS, __doc__)
