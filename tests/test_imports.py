"""Who may import what, and what nobody may call: read from every file's source, so that a new one is tested too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgekit

CORE = Path(edgekit.__file__).parent
FOLDERS = ("exporters", "runtimes", "targets")
FILES = sorted(
    {
        *CORE.rglob("*.py"),
        *(file for home in edgekit.__path__ for name in FOLDERS for file in Path(home, name).rglob("*.py")),
    }
)
BANNED_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_NAMES = {"eval", "exec", "__import__", "os.system", "os.popen", "yaml.load"}


@dataclass(frozen=True)
class Rule:
    """What a file may import besides the standard library: our own modules, others anywhere, others in functions."""

    ours: tuple[str, ...]
    anywhere: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Import:
    module: str  # absolute, dotted
    line: int
    inside: bool  # a function


def name_of(file: Path) -> str:
    """`edgekit.runtimes.heads.classes` for a file in a wheel and in a checkout alike."""
    home = next(home for home in (CORE, *map(Path, edgekit.__path__)) if file.is_relative_to(home))
    parts = file.relative_to(home).with_suffix("").parts
    return ".".join(("edgekit", *(part for part in parts if part != "__init__")))


MODULES = {name_of(file) for file in FILES}


FILES_OF_ARRAYS = ("edgekit.bundle.safe_files", "edgekit.bundle.array_file")


def rule_for(module: str) -> Rule:
    folder, _, rest = module.removeprefix("edgekit").lstrip(".").partition(".")
    if folder == "distribution":
        return Rule(())
    if folder == "__main__":
        return Rule((), frozenset({"edgekit_command"}))
    if folder in ("core", "results", "session", "errors", "limits", "registry"):
        nouns = () if folder == "errors" else ("edgekit.core", "edgekit.results", "edgekit.errors")
        return Rule(nouns, frozenset({"numpy"}))
    if folder in FOLDERS:
        return _room_rule(folder, rest)
    if folder == "zoo" and (rest == "_training" or rest.endswith("recipe")):
        data = {"sklearn"} if rest == "digits.recipe" else set()  # the data set that it trains on
        heavy = {"torch", "transformers", "tokenizers", "safetensors"}
        return Rule(("edgekit",), frozenset({"numpy"}), frozenset(heavy | data))
    return Rule(("edgekit",), *_core_allows(folder))


def _room_rule(folder: str, rest: str) -> Rule:
    """The rule of a file in exporters/, runtimes/ or targets/; `rest` is its dotted name there."""
    everywhere = (
        "edgekit.core",
        "edgekit.errors",
        "edgekit.distribution",
        "edgekit.machine.system_calls",
        f"edgekit.{folder}",
    )
    if folder == "exporters":
        heavy = {"torch", "transformers", "diffusers", "optimum", "onnx", "onnx_ir", "onnxscript", "safetensors"}
        ours = (*everywhere, "edgekit.quantize", "edgekit.registry", "edgekit.source")
        return Rule(ours, frozenset({"numpy"}), frozenset(heavy | {"sentence_transformers", "huggingface_hub", "PIL"}))
    if folder == "runtimes":
        files = frozenset({"tokenizers", "PIL", "soundfile", "soxr", "llguidance"})
        nouns = ("edgekit.results", "edgekit.session", "edgekit.limits")
        disk = (*FILES_OF_ARRAYS, "edgekit.bundle.user_files")
        model = ("edgekit.model",) if rest.startswith("tasks.") else ()
        return Rule((*everywhere, *nouns, *model, *disk), frozenset({"numpy", "msgspec"}), files)
    ours = ("edgekit.session", "edgekit.machine.device", "edgekit.machine.native_calls", "edgekit.machine.shortage")
    ours = (*ours, "edgekit.workbench.graph", "edgekit.bundle.onnx_file")
    ours = (*everywhere, *ours, *FILES_OF_ARRAYS, "edgekit.footprint", "edgekit.machine.memory_pages")
    engine = "openvino" if rest.startswith(("openvino", "_openvino")) else "onnxruntime"
    return Rule(ours, frozenset({"numpy"}), frozenset({engine, "onnx", "onnx_ir"}))


def _core_allows(folder: str) -> tuple[frozenset[str], frozenset[str]]:
    anywhere, inside = {"numpy", "msgspec"}, {"onnx", "onnx_ir"} if folder in ONNX else set[str]()
    anywhere |= {"click"} if folder == "cli" else set()
    inside |= {"huggingface_hub"} if folder == "source" else set()
    inside |= {"rich"} if folder == "cli" else set()
    return frozenset(anywhere), frozenset(inside)


ONNX = ("workbench", "quantize", "bundle", "export")


def imports(tree: ast.AST, module: str, package: bool, inside: bool = False) -> Iterator[Import]:
    """Every import that can run; what stands under `if TYPE_CHECKING` cannot."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = module.split(".") if package else module.split(".")[:-1]
            above = home[: len(home) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                name = inner if inner in MODULES or origin == "edgekit" or not node.module else origin
                yield Import(name, node.lineno, inside)
        in_function = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports(node, module, package, in_function)


def faults(found: Iterator[Import], rule: Rule, module: str) -> list[str]:
    wrong = []
    for each in found:
        top = each.module.partition(".")[0]
        if top in sys.stdlib_module_names or each.module == "edgekit":
            continue
        if top == "edgekit":
            part = each.module.removeprefix("edgekit").lstrip(".").partition(".")[0]
            outside = part in FOLDERS and not module.startswith(f"edgekit.{part}")
            if outside or not any(each.module == ours or each.module.startswith(f"{ours}.") for ours in rule.ours):
                wrong.append(f"line {each.line}: {each.module} is not for this file")
        elif top not in rule.anywhere | rule.inside:
            wrong.append(f"line {each.line}: {each.module} is not for this file")
        elif top not in rule.anywhere and not each.inside:
            wrong.append(f"line {each.line}: {each.module} must be imported inside a function")
    return wrong


def banned(tree: ast.AST) -> list[str]:
    """Calls and imports by which a file could run code or write where it likes (reliability R1)."""
    wrong = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong += [f"line {node.lineno}: {name}" for name in names if name.partition(".")[0] in BANNED_MODULES]  # type: ignore[attr-defined]
        if isinstance(node, ast.Call) and (what := _banned_call(node)):
            wrong.append(f"line {node.lineno}: {what}")
    return wrong


def _banned_call(call: ast.Call) -> str:
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    name = ast.unparse(call.func)
    if name in BANNED_NAMES or name.endswith(".extractall"):
        return f"{name}()"
    if said.get("shell", "False") != "False":
        return f"{name}(shell=…)"
    if name == "torch.load" and said.get("weights_only") != "True":
        return f"{name}()"
    return f"{name}(allow_pickle=…)" if said.get("allow_pickle", "False") != "False" else ""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports(file: Path) -> None:
    module = name_of(file)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert faults(imports(tree, module, file.stem == "__init__"), rule_for(module), module) == []


# What a part of the core must not import: it stands below these.
ABOVE = {
    "edgekit.reporting": ("edgekit.cli", "edgekit.report", "edgekit.bench", "edgekit.measuring"),
    "edgekit.measuring": ("edgekit.cli", "edgekit.report", "edgekit.bench"),
    "edgekit.cache": ("edgekit.cli", "edgekit.report", "edgekit.bench", "edgekit.measuring", "edgekit.reporting"),
    "edgekit.report": ("edgekit.cli", "edgekit.bench", "edgekit.measuring"),
    "edgekit.bench": ("edgekit.cli",),
    "edgekit.text_table": ("edgekit",),
}


def within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def upward(found: Iterator[Import], module: str) -> list[str]:
    """Imports of what stands above the module."""
    above = [name for folder, names in ABOVE.items() if within(module, folder) for name in names]
    return [f"line {each.line}: {each.module}" for each in found if any(within(each.module, name) for name in above)]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    module = name_of(file)
    assert upward(imports(ast.parse(file.read_text(encoding="utf-8")), module, file.stem == "__init__"), module) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("edgekit.reporting.record", "def f():\n    from edgekit import report"),
        ("edgekit.measuring.parent", "from edgekit.cli.console import plain"),
        ("edgekit.cache.measurements", "from edgekit.reporting.record import Row"),
    ],
)
def test_an_upward_import_is_seen(module: str, code: str) -> None:
    assert upward(imports(ast.parse(code), module, False), module)


def import_graph() -> dict[str, set[str]]:
    """Each module with the modules of ours that it imports, in functions too. Without `edgekit` itself: the package
    only passes on names."""
    graph = {}
    for file in FILES:
        module = name_of(file)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        targets = {each.module for each in imports(tree, module, file.stem == "__init__")}
        graph[module] = targets & MODULES - {module, "edgekit"}
    del graph["edgekit"]
    return graph


def circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """The largest sets of modules that all import one another, directly or not."""
    reachable = {module: _reachable(graph, module) for module in graph}
    mutual = {
        frozenset(other for other in reached if module in reachable[other]) for module, reached in reachable.items()
    }
    return sorted(filter(None, mutual), key=sorted)


def _reachable(graph: dict[str, set[str]], module: str) -> set[str]:
    reached: set[str] = set()
    ahead = list(graph[module])
    while ahead:
        current = ahead.pop()
        if current not in reached:
            reached.add(current)
            ahead += graph[current]
    return reached


def test_no_circle_of_files() -> None:
    assert [sorted(circle) for circle in circles(import_graph())] == []


def test_a_circle_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"e"}}
    assert circles(graph) == [{"b", "c"}, {"e"}]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_banned_is_called(file: Path) -> None:
    assert banned(ast.parse(file.read_text(encoding="utf-8"))) == []


def test_all_folders_are_walked() -> None:
    walked = {name_of(file).split(".")[1] for file in FILES if name_of(file) != "edgekit"}
    assert {*FOLDERS, "core", "cli", "zoo"} <= walked


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("edgekit.core", "import msgspec"),
        ("edgekit.errors", "from edgekit import core"),
        ("edgekit.model", "def f():\n    import torch"),
        ("edgekit.model", "import click"),
        ("edgekit.model", "from edgekit.targets import cpu"),
        ("edgekit.source.hub", "import huggingface_hub"),
        ("edgekit.workbench.graph", "import onnx"),
        ("edgekit.zoo.parity.recipe", "import torch"),
        ("edgekit.zoo.metrics", "def f():\n    import torch"),
        ("edgekit.exporters.bert", "import torch"),
        ("edgekit.exporters.bert", "from edgekit.runtimes.heads import classes"),
        ("edgekit.exporters.bert", "from ..targets import cpu"),
        ("edgekit.runtimes.heads.classes", "def f():\n    import onnxruntime"),
        ("edgekit.runtimes.heads.classes", "from ...targets.cpu import open"),
        ("edgekit.runtimes.heads.classes", "from edgekit import registry"),
        ("edgekit.runtimes.ingest.text", "import tokenizers"),
        ("edgekit.targets.cpu", "def f():\n    import openvino"),
        ("edgekit.targets.openvino", "def f():\n    import onnxruntime"),
        ("edgekit.targets.cpu", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
    ],
)
def test_a_wrong_import_is_seen(module: str, code: str) -> None:
    assert faults(imports(ast.parse(code), module, False), rule_for(module), module)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("edgekit.exporters.bert", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("edgekit.exporters.bert", "from ._trace.trace import Tracing"),
        ("edgekit.exporters.bert", "def f():\n    import torch.nn"),
        (
            "edgekit.runtimes.heads.fill",
            "import numpy as np\nfrom .classes import softmax\nfrom ..ingest.text import x",
        ),
        ("edgekit.targets.openvino", "class A:\n    def f(self):\n        import openvino"),
    ],
)
def test_a_right_import_passes(module: str, code: str) -> None:
    assert faults(imports(ast.parse(code), module, False), rule_for(module), module) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(code)",
        "archive.extractall(folder)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "yaml.load(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_a_banned_call_is_seen(code: str) -> None:
    assert banned(ast.parse(code))


def test_what_only_looks_banned_passes() -> None:
    code = "model.eval()\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nrun(x, shell=False)"
    assert banned(ast.parse(code)) == []
