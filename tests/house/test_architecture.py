"""The floors: imports go down only, and importing rtaccel brings in nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

FLOORS: dict[str, int] = {
    "core": 0,
    "formats": 1, "backends": 1, "measure": 1,
    "kernels": 2,
    "plan": 3,
    "nn": 4,
    "convert": 5,
    "runtime": 6,
    "realtime": 7, "deploy": 7,
    "online": 8, "search": 8,
    "serve": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip

NATIVE = "_native"
"""The compiled core; the only module of the package without a floor."""


def files() -> list[Path]:
    found = [*(ROOT / "rtaccel").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    return [file for file in sorted(found) if file != ROOT / "rtaccel" / "__init__.py"]


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    return "kernels" if parts[0] == "kernels" else parts[1].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands: module level, function, TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def violations(room: str, source: str) -> list[str]:
    found = []
    for line, name in imported(ast.parse(source)):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"{line}: relative import {name}")
        elif parts[0] == "kernels":
            found.append(f"{line}: {name} is installed as rtaccel.kernels")
        elif parts[0] == "rtaccel" and parts[1:] not in (["__version__"], [NATIVE]):
            if len(parts) == 1:
                found.append(f"{line}: import of the whole package hides which room is used")
                continue
            target = parts[1]
            if target == NATIVE:
                continue
            if target not in FLOORS:
                found.append(f"{line}: {name} is on no floor")
            elif target != room and FLOORS[target] >= FLOORS[room]:
                found.append(f"{line}: {room} imports {name}, which is not below it")
    return found


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_only(file: Path) -> None:
    assert room_of(file) in FLOORS, f"{room_of(file)} has no floor; add it to FLOORS and to the design"
    assert violations(room_of(file), file.read_text(encoding="utf-8")) == []


KERNELS = {
    "_common/activations": 0,
    "_core": 0,
    "_simd": 0,
    "_system": 0,
    "_common": 1,
    "_expression": 2,
    "_matrices": 2,
    "_streams": 2,
    "_gpu": 2,
    "_persistent": 3,
    "recurrent": 4,
}
"""Floors inside kernels; operators are above all. `_core`, `_simd` and `_system` share one: the runtime, vectors for its kernels,
what a system gives it. The first two read the table of activations, which knows nothing of ours."""


def room_of_kernels(path: Sequence[str]) -> str:
    """The folder of kernels that a path lies in. path: its parts, from kernels/ on."""
    inner = "/".join(path[:2])
    return inner if inner in KERNELS else path[0]


def floor_of_kernels(room: str) -> int:
    return KERNELS.get(room, 5)


def rooms_used(file: Path) -> Iterator[tuple[str, str]]:
    """(what it names, the folder of kernels that it lies in): imports of Python; includes of C++ and CUDA."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        for _, name in imported(ast.parse(text)):
            parts = name.split(".")
            if parts[:2] == ["rtaccel", "kernels"] and len(parts) > 2:
                yield name, room_of_kernels(parts[2:])
    else:
        for name in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
            if "/" in name:
                yield name, room_of_kernels(name.split("/"))


def test_folders_of_kernels_use_what_is_below() -> None:
    wrong, seen = [], set()
    for file in sorted((ROOT / "kernels").rglob("*")):
        own = room_of_kernels(file.relative_to(ROOT / "kernels").parts)
        if file.suffix not in (".py", ".cc", ".h", ".cu") or own not in KERNELS:
            continue
        seen.add((own, file.suffix))
        for name, room in rooms_used(file):
            if floor_of_kernels(room) > floor_of_kernels(own):
                wrong.append(f"{file.relative_to(ROOT)} uses {name}")
    assert wrong == []
    assert {("_core", ".cc"), ("_simd", ".h"), ("recurrent", ".cu"), ("_gpu", ".py")} <= seen


def test_operators_use_no_headers_of_their_neighbors_but_of_linear() -> None:
    """Sparse layers end as linear ones do; nothing else of one operator is in another's C++."""
    kernels = ROOT / "kernels"
    found = {
        (own, room)
        for file in kernels.rglob("*")
        if file.suffix in (".cc", ".h", ".cu")
        for own in file.relative_to(kernels).parts[:1]
        for _, room in rooms_used(file)
        if room not in KERNELS and (kernels / room).is_dir() and room != own
    }
    assert found == {("sparse_linear", "linear")}


OPERATORS = sorted(contract.parent.name for contract in (ROOT / "kernels").glob("*/contract.py"))


def test_operators_are_found() -> None:
    from rtaccel.core.registry import operators

    assert sorted(operators()) == OPERATORS


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_tests_of_its_own(name: str) -> None:
    """Beside conformance, which holds kernels to the reference: what holds the reference, and what is refused."""
    file = next((ROOT / "tests" / "kernels").rglob(f"test_{name}.py"), None)
    assert file is not None, f"write tests/kernels/test_{name}.py: kernels/{name} has a contract"
    found = {
        node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    }
    assert sum(test.startswith("test_") for test in found) >= 3


CONVERT = {
    "aten": -1,
    "onnx": 0,
    "frontend": 0,
    "weights": 0,
    "patterns": 1,
    "quantization": 1,
    "passes": 2,
    "module_swap": 2,
    "pruning": 3,
    "": 4,
}
"""Floors inside convert; "" has what puts the folders together, but for the names of operators."""


def test_folders_of_convert_import_down_only() -> None:
    wrong = []
    for file in sorted((ROOT / "rtaccel" / "convert").rglob("*.py")):
        own = folder_of_convert(list(file.relative_to(ROOT).parts))
        for line, name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            parts = name.split(".")
            if parts[:2] != ["rtaccel", "convert"] or folder_of_convert(parts) == own:
                continue
            if CONVERT[folder_of_convert(parts)] >= CONVERT[own]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


def folder_of_convert(parts: list[str]) -> str:
    name = parts[2].removesuffix(".py") if len(parts) > 2 else ""
    return name if name in CONVERT else ""


@pytest.mark.parametrize(
    ("room", "source", "count"),
    [
        ("core", "import torch\nfrom rtaccel import __version__", 0),
        ("core", "from rtaccel.formats.int8 import pack", 1),
        ("core", "def f():\n    import rtaccel.cli.main", 1),
        ("formats", "from rtaccel.measure.budget import Budget", 1),
        ("formats", "from rtaccel.formats import int8\nfrom rtaccel.core.errors import FormatError", 0),
        ("formats", "from rtaccel import measure", 1),
        ("backends", "import rtaccel._native as native\nfrom rtaccel._native import isa", 0),
        ("kernels", "from rtaccel.plan.choose import choose", 1),
        ("kernels", "from kernels.linear import contract", 1),
        ("runtime", "from rtaccel.plan.choose import choose\nfrom rtaccel.nn import QuantLinear", 0),
        ("runtime", "if TYPE_CHECKING:\n    from rtaccel.cli import main", 1),
        ("cli", "import rtaccel", 1),
        ("cli", "from . import main", 1),
        ("plan", "from rtaccel.utils import helper", 1),
    ],
)
def test_the_check_itself(room: str, source: str, count: int) -> None:
    assert len(violations(room, source)) == count


def loaded_after(code: str, *, baseline: str = "") -> set[str]:
    """Top-level modules that `code` adds to those of `baseline`, in a fresh interpreter."""
    script = f"{baseline}\nimport sys\nbefore = set(sys.modules)\n{code}\n"
    script += "print(' '.join(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT / "tests"
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


GPU = {"triton", "numba", "cupy", "cuda", "pynvml"}


@pytest.mark.parametrize(
    "code",
    [
        "import rtaccel",
        "import rtaccel.measure.pytest_plugin",
        "import rtaccel\ndir(rtaccel), rtaccel.RtaccelError, rtaccel.Budget, rtaccel.W8A8",
        "from rtaccel.cli import main\nmain.build_parser(['info'])",
    ],
)
def test_imports_are_light(code: str) -> None:
    loaded = loaded_after(code, baseline="import pytest")
    assert "rtaccel" in loaded
    assert not loaded & (GPU | {"torch", "numpy"})


def test_measuring_does_not_import_torch() -> None:
    loaded = loaded_after("import rtaccel\nassert rtaccel.measure(len, ([],), samples=3, warmup=0).n == 3")
    assert "numpy" in loaded
    assert not loaded & (GPU | {"torch"})


def test_public_names_load_no_gpu_library() -> None:
    code = "import rtaccel\nfor name in rtaccel.__all__: getattr(rtaccel, name)"
    loaded = loaded_after(code, baseline="import torch")
    assert "rtaccel" in loaded
    assert not loaded & GPU


MAX_FILES = 20
CODE = (".py", ".cc", ".h", ".cu", ".def", ".in")


def test_folders_stay_small() -> None:
    counted: dict[Path, int] = {}
    for top in ("rtaccel", "kernels", "bench", "tests", "docs", "cmake", "examples"):
        for file in (ROOT / top).rglob("*"):
            if (
                file.suffix in CODE
                and "__pycache__" not in file.parts
                and not file.is_relative_to(ROOT / "rtaccel" / "kernels")
            ):
                counted[file.parent] = counted.get(file.parent, 0) + 1
    assert not {str(folder.relative_to(ROOT)): n for folder, n in counted.items() if n > MAX_FILES}


def test_nothing_that_a_tool_made_is_kept() -> None:
    """Programs and archives that a build left behind: what is tracked is text, but for what the fuzzers begin with."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout")
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    corpora = "tests/native/corpus/", "tests/native/frames/corpus/"
    files = [ROOT / name for name in found.split("\0") if name and not name.startswith(corpora)]
    assert not [str(f.relative_to(ROOT)) for f in files if f.exists() and b"\0" in f.read_bytes()[:4096]]
