"""The wheel, as a device gets it: what is in it, and that it runs a bundle with its own dependencies alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgekit
from edgekit import distribution, registry, zoo

pytestmark = pytest.mark.slow

CHECKOUT = Path(edgekit.__file__).parent.parent
WORKBENCH = ("torch", "transformers", "optimum", "onnx", "onnx_ir", "safetensors", "openvino")


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Without this checkout in sight."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout, with the build back end that is installed here."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("edgekit does not run from a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, CHECKOUT)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    info = f"{distribution.NAME.replace('-', '_')}-{edgekit.__version__}.dist-info/"
    assert {name.split("/")[0] for name in names} == {"edgekit", "edgekit_command.py", info.rstrip("/")}
    for kind in ("exporters", "targets"):
        assert {f"edgekit/{kind}/{name}.py" for name in registry.names(kind)} <= names
    for part in ("ingest", "loops", "heads"):
        assert {f"edgekit/runtimes/{part}/{name}.py" for name in registry.names(part)} <= names
    for name in zoo.names():
        files = [file.relative_to(zoo.folder(name)) for file in zoo.folder(name).rglob("*") if file.is_file()]
        assert {f"edgekit/zoo/{name}/{file}" for file in files if file.suffix != ".pyc"} <= names
    assert "edgekit/py.typed" in names
    assert {f"edgekit/reporting/{name}" for name in ("page.css", "page.js", "schema.json")} <= names
    assert f"{info}licenses/LICENSE" in names
    assert not [name for name in names if "test" in name.lower() or name.endswith((".pyc", ".so"))]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size <= 7 << 19  # the zoo is most of it


def test_the_same_source_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, CHECKOUT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@dataclass(frozen=True)
class Device:
    """An environment with the wheel and its dependencies in it, and nothing else."""

    folder: Path

    def python(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run(self.folder / "bin" / "python", "-c", code, *arguments, cwd=self.folder)

    def edgekit(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run(self.folder / "bin" / "edgekit", *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return installed(wheel, "", tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def builder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A machine that exports language models, without torch."""
    return installed(wheel, "[export-lm]", tmp_path_factory.mktemp("builder"))


def installed(wheel: Path, extra: str, folder: Path) -> Device:
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = run(*pip, f"{wheel}{extra}")
    if done.returncode:
        # Whose fault it is: without an index nothing can be installed, and a wheel that pip refuses is ours.
        alone = run(*pip, "--no-deps", wheel)
        assert alone.returncode == 0, alone.stderr
        pytest.skip(f"the dependencies cannot be installed here: {done.stderr.strip()[-300:]}")
    return Device(folder)


def test_nothing_of_the_workbench_is_there(device: Device) -> None:
    code = "import importlib.util, sys; print([m for m in sys.argv[1:] if importlib.util.find_spec(m)])"
    done = device.python(code, *WORKBENCH)
    assert done.stdout == "[]\n", done.stderr
    where = device.python("import edgekit; print(edgekit.__file__)")
    assert where.stdout.startswith(str(device.folder)), where.stderr


def test_it_runs_a_bundle(device: Device, exported: Callable[..., Path]) -> None:
    vectors = exported("zoo:parity")
    classes = exported("zoo:parity", task="text-classification", targets=("cpu",), precision="int8")
    code = """
import json, sys, edgekit
with edgekit.load(sys.argv[1], precision="fp32") as model:
    vectors = model.embed(["seventy two", "72"])
with edgekit.load(sys.argv[2]) as model:
    labels = [best[0].label for best in model.classify(["seventy two", "nine"])]
print(json.dumps({"vectors": vectors.tolist(), "labels": labels, "loaded": sorted(sys.modules)}))
"""
    done = device.python(code, vectors, classes)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with edgekit.load(vectors, target="cpu", precision="fp32") as model:
        assert found["vectors"] == [pytest.approx(row, abs=1e-5) for row in model.embed(["seventy two", "72"]).tolist()]
    with edgekit.load(classes) as model:
        assert found["labels"] == [best[0].label for best in model.classify(["seventy two", "nine"])]
    assert not {*WORKBENCH, "huggingface_hub"} & set(found["loaded"])  # tokenizers brings it, and nobody loads it


def test_the_commands(device: Device, exported: Callable[..., Path]) -> None:
    bundle = exported("zoo:parity")
    verified = device.edgekit("verify", bundle, "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert {"cpu/fp32", "cpu/int8-dynamic"} == {check["variant"] for check in json.loads(verified.stdout)["checks"]}
    for arguments in (["--help"], ["list"], ["list", "targets"], ["list", "zoo"], ["doctor"], ["inspect", bundle]):
        done = device.edgekit(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert device.edgekit("--version").stdout == f"edgekit {edgekit.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["verify", "absent.ek"], 6),
        (["verify", "BUNDLE", "--target", "openvino"], 8),
        (["run", "BUNDLE"], 2),
        (["export", "zoo:absent", "-o", "made.ek", "--dry-run"], 3),
        (["export", "zoo:parity", "-o", "made.ek"], 8),
        (["exprot"], 2),
    ],
)
def test_how_commands_fail(device: Device, exported: Callable[..., Path], arguments: list[str], status: int) -> None:
    bundle = exported("zoo:parity")
    done = device.edgekit(*(str(bundle) if each == "BUNDLE" else each for each in arguments))
    assert done.returncode == status, done.stderr
    assert "error: " in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (device.folder / "made.ek").exists()


def test_language_models_are_exported_without_torch(builder: Device) -> None:
    made = builder.edgekit("export", "zoo:speaker", "-o", "speaker.ek", "--precision", "int8", "--quiet")
    assert made.returncode == 0, made.stderr
    assert builder.edgekit("run", "speaker.ek", "-p", "347 =").stdout == "three hundred forty-seven\n"
    refused = builder.edgekit("export", "zoo:parity", "-o", "parity.ek")
    assert refused.returncode == 8, refused.stderr
    assert distribution.install("export") in refused.stderr
    assert "can export language and recurrent models only" in builder.edgekit("doctor").stdout
