"""What must be quick to start brings nothing heavy: measured by what a fresh process has imported, not by a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"numpy", "torch", "transformers", "optimum", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino"}
HEAVY |= {"huggingface_hub", "tokenizers", "safetensors", "rich", "PIL", "msgspec"}
REPORT = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"


def imported(code: str) -> set[str]:
    """The top-level modules that a fresh process holds after `code`, however it ends."""
    script = f"try:\n    {code}\nfinally:\n    {REPORT}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    return set(json.loads(ended.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import edgekit",
        "import edgekit.cli.main",
        "from edgekit.cli.main import main; assert main(['--help']) == 0",
        "from edgekit.cli.main import main; assert main(['export', '--help']) == 0",
        "from edgekit.cli.main import main; assert main(['run', '--help']) == 0",
        "from edgekit.cli.main import main; assert main(['--version']) == 0",
        "from edgekit.cli.main import main; assert main(['exprot']) == 2",
        "from edgekit.cli.main import main; assert main(['list', 'architectures']) == 0",
        "from edgekit.cli.main import main; assert main(['list', 'tasks', '--json']) == 0",
        "from edgekit.cli.main import main; assert main(['list', 'zoo']) == 0",
    ],
)
def test_light(code: str) -> None:
    found = imported(code)
    assert "edgekit" in found
    assert found & HEAVY == set()


def test_completion_is_light() -> None:
    code = (
        "import os; os.environ.update(_EDGEKIT_COMPLETE='bash_complete', COMP_WORDS='edgekit export --target op', "
        "COMP_CWORD='3'); from edgekit.cli.main import main; main()"
    )
    assert imported(code) & HEAVY == set()


def test_doctor_and_targets_bring_no_torch() -> None:
    for verb in ("'doctor'", "'list', 'targets'"):
        code = f"from edgekit.cli.main import main; assert main([{verb}]) == 0"
        assert imported(code) & {"torch", "transformers", "onnx", "optimum"} == set()


def test_the_check_can_fail() -> None:
    assert "numpy" in imported("import numpy")


def test_module_is_the_command() -> None:
    ended = subprocess.run([sys.executable, "-m", "edgekit", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("edgekit ")
