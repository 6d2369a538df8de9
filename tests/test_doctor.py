"""The doctor's findings: each conflict is found, each with a remedy, and a sound installation has none."""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from edgekit import distribution, doctor
from edgekit.core import Availability
from edgekit.doctor import Cache, Package

HERE = (Availability("cpu", True, "Engine", "1"),)


def said(findings: list[doctor.Finding]) -> list[tuple[str, str]]:
    assert all(finding.remedy for finding in findings)
    return [(finding.level, finding.problem) for finding in findings]


@pytest.mark.parametrize(
    ("version", "wanted", "keeps"),
    [
        ("2.13.0+cpu", ">=2.13,<2.15", True),
        ("2.13", ">=2.13.0", True),
        ("2.15.0", "<2.15,>=2.13", False),
        ("2.9", ">=2.13", False),
        ("2.14rc1", ">=2.13,<2.15", True),
        ("1!3", "", True),
        ("unknown", ">=1", False),
    ],
)
def test_versions(version: str, wanted: str, keeps: bool) -> None:
    assert doctor.within(version, wanted) is keeps


def test_packages_come_from_our_own_metadata() -> None:
    found = {package.name: package for package in doctor.packages()}
    assert found["numpy"].version == metadata.version("numpy")
    assert found["numpy"].extra == ""
    assert found["torch"].extra == "export"
    assert "<" in found["torch"].wanted
    assert found["onnx"].extra == "export-lm"
    assert not {"pytest", distribution.NAME} & set(found)


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", none)
    assert doctor.packages() == ()


def test_nothing_is_wrong() -> None:
    found = (Package("numpy", "2.4", ">=2.0", ""), Package("torch", "2.13", "<2.15,>=2.13", "export"))
    assert said(doctor.package_findings(found, {"onnxruntime": "1.31", "numpy": "2.4"})) == []
    assert said(doctor.engine_findings(HERE)) == []


def test_two_onnxruntimes() -> None:
    (found,) = doctor.package_findings((), {"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"})
    assert found.level == "warning"
    assert found.problem == "onnxruntime and onnxruntime-gpu overwrite each other's files"
    assert found.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_wrong_versions_and_missing_packages() -> None:
    found = (
        Package("numpy", "1.26", ">=2.0", ""),
        Package("torch", None, ">=2.13", "export"),
        Package("pillow", None, ">=12.3", "vision"),  # an extra that was not asked for is no finding
    )
    assert said(doctor.package_findings(found, {})) == [
        ("warning", "numpy 1.26 is installed, >=2.0 is needed"),
        ("note", "can export language and recurrent models only: torch not installed"),
    ]
    (nothing,) = doctor.export_findings((Package("onnx", None, ">=1.23", "export-lm"), found[1]))
    assert nothing.problem == "cannot export models here: onnx not installed"
    assert distribution.install("export-lm") in nothing.remedy


def test_another_project_of_the_same_import_name() -> None:
    assert doctor.name_findings({distribution.NAME: "0.1.0"}) == []
    (found,) = doctor.package_findings((), {"edgekit": "0.1.1", distribution.NAME: "0.1.0"})
    assert (found.level, "another project" in found.problem) == ("warning", True)
    assert found.remedy.endswith(f"&& pip install {distribution.NAME}")


def test_the_name_is_the_same_everywhere() -> None:
    root = Path(__file__).parent.parent
    assert tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["name"] == distribution.NAME
    for file in ("README.md", "SECURITY.md", ".github/CONTRIBUTING.md"):
        text = (root / file).read_text("utf-8")
        assert not re.search(r"pip install [^\n`]*\bedgekit(?!-onnx)\b", text), file


def test_no_engine() -> None:
    (found,) = doctor.engine_findings((Availability("cpu", False, "Engine", "", "it is gone", "pip install engine"),))
    assert (found.level, found.remedy) == ("error", "pip install engine")
    assert doctor.engine_findings(())[0].remedy == "pip install onnxruntime"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = Cache("downloaded models", tmp_path / "not" / "there", 1)
    assert said(doctor.cache_findings((cache,))) == []
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write to any folder
    ((level, problem),) = said(doctor.cache_findings((cache,)))
    assert level == "warning"
    assert problem == f"{cache.folder} (for downloaded models) cannot be written"


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a/b", "HF_HOME": "/c"}, "/a/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d", "HOME": "/e"}, "/d/huggingface/hub"),
        ({"HOME": "/e"}, "/e/.cache/huggingface/hub"),
    ],
)
def test_where_models_go(environment: dict[str, str], folder: str) -> None:
    models = doctor.caches(environment)[0]
    assert models.folder == Path(folder)
    assert models.free is None or models.free >= 0


def test_space_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: Path) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr("shutil.disk_usage", stale)
    assert doctor.caches({"HF_HOME": "/c"})[0].free is None


def test_this_installation() -> None:
    found = doctor.examine()
    assert found.usable is any(target.available for target in found.targets)
    assert [target.target for target in found.targets] == [target.target for target in doctor.targets()]
