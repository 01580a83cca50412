"""No file that the program opens can run code: every call that could is found in the syntax tree and refused."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOTS = ("mri_minority", "pipelines/mri_minority_pipelines", "cli/mri_minority_cli")

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Importing one of these is enough to be refused."""

CALLS = {"eval", "exec", "compile", "builtins.eval", "builtins.exec", "yaml.load", "yaml.load_all"}
CALLS |= {f"yaml.{kind}_load{many}" for kind in ("unsafe", "full") for many in ("", "_all")}
ALLOWED = {"mri_minority/backbones/user_network.py": {"torch.jit.load"}}
"""A lab's own network as TorchScript, named by its user: torch's own interpreter, no Python, no unpickling of objects
(docs/decisions/0006)."""

CALLS |= {"torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `np` -> `numpy`, `load` -> `torch.load`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                names[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom):
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def called(function: ast.expr, names: dict[str, str]) -> str:
    """Full dotted name of what is called, or an empty string when it is not a plain name."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return ".".join([names.get(function.id, function.id), *reversed(parts)])


def is_true(call: ast.Call, keyword: str) -> bool | None:
    """Whether the call passes keyword=True; None when it does not pass it at all."""
    for given in call.keywords:
        if given.arg == keyword:
            return isinstance(given.value, ast.Constant) and given.value.value is True
    return None


def refused(source: str) -> Iterator[tuple[int, str]]:
    """Line and reason of everything in the source that could run code out of a file."""
    tree = ast.parse(source)
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from ((node.lineno, f"import of {m}") for m in modules if m.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            name = called(node.func, names)
            if name in CALLS:
                yield node.lineno, f"call of {name}"
            elif name in ("torch.load", "torch.serialization.load") and is_true(node, "weights_only") is not True:
                yield node.lineno, f"{name} without weights_only=True"
            elif name.startswith("numpy.") and is_true(node, "allow_pickle"):
                yield node.lineno, f"{name} with allow_pickle=True"
            elif name == "numpy.load" and len(node.args) > 2:
                yield node.lineno, "numpy.load with positional options"


def test_nothing_that_runs_code_from_a_file(repository: Path) -> None:
    files = [file for root in ROOTS for file in sorted((repository / root).rglob("*.py"))]
    assert files, "no sources found: has a source root moved?"
    found = [
        f"{file.relative_to(repository)}:{line}: {reason}"
        for file in files
        for line, reason in refused(file.read_text(encoding="utf-8"))
        if reason.removeprefix("call of ") not in ALLOWED.get(file.relative_to(repository).as_posix(), set())
    ]
    assert not found, "use safetensors, JSON, yaml.safe_load or weights_only=True:\n" + "\n".join(found)


def call(function: str, arguments: str = "path") -> str:
    """A call as source text; put together here, so that a plain text search of the tree stays quiet."""
    return f"{function}({arguments})"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib as store",
        "import torch\n" + call("torch.load"),
        "import torch as t\n" + call("t.load", "path, weights_only=False"),
        "from torch import load\n" + call("load"),
        "import yaml\n" + call("yaml.load", "text, Loader=yaml.Loader"),
        "import yaml\n" + call("yaml.unsafe_load", "text"),
        "import numpy as np\n" + call("np.load", "path, allow_pickle=True"),
        "import numpy as np\n" + call("np.load", "path, None, True"),
        call("eval", "text"),
        call("exec", "text"),
        "import torch\n" + call("torch.jit.load"),
    ],
)
def test_the_guard_sees(source: str) -> None:
    assert len(list(refused(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\n" + call("torch.load", "path, weights_only=True"),
        "import yaml\n" + call("yaml.safe_load", "text"),
        "import numpy as np\n" + call("np.load"),
        "import re\n" + call("re.compile", "pattern"),
        call("net.eval", ""),
        "import json\n" + call("json.load"),
    ],
)
def test_the_guard_lets_pass(source: str) -> None:
    assert list(refused(source)) == []
