"""What adding an operator or a scheme touches: no code but its own names an operator, and a new one is a folder and a rule."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import rtaccel._native as native
from rtaccel.core.registry import operators
from rtaccel.core.traits import FALLBACK
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "rtaccel" / "convert" / "patterns"
"""Where ATen calls become operators: each file there names the one that it makes."""


FORMS = ROOT / "rtaccel" / "deploy" / "onnx" / "forms"
"""Where stages become ONNX nodes: each function there names the operators that it writes."""


def files() -> list[Path]:
    found = sorted((ROOT / "rtaccel").rglob("*.py"))
    return [
        file for file in found if "kernels" not in file.relative_to(ROOT).parts and not {RULES, FORMS} & {*file.parents}
    ]


def _texts(node: ast.AST | None) -> Iterator[tuple[int, str]]:
    """Text constants: the node itself, or the elements of a literal collection."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        for element in node.elts:
            yield from _texts(element)


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every text that something is compared with: ==, in, match, the start or the end of a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from _texts(side)
        elif isinstance(node, ast.MatchValue):
            yield from _texts(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith"):
            for argument in node.args:
                yield from _texts(argument)


def listed(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every text in a literal collection, as a key of a dict, as an index, or asked of the registry."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Set, ast.List, ast.Tuple)):
            yield from _texts(node)
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                yield from _texts(key)
        elif isinstance(node, ast.Subscript):
            yield from _texts(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("operator", "impls"):
            for argument in node.args:
                yield from _texts(argument)


def named(source: str) -> list[str]:
    """Where a source file goes by the name of an operator, or by the text that marks a fallback."""
    tree, known = ast.parse(source), operators()
    wrong = {f"{line}: {text!r}" for line, text in compared(tree) if text in known or text == FALLBACK}
    return sorted(wrong | {f"{line}: {text!r}" for line, text in listed(tree) if text in known})


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_pass_goes_by_the_name_of_an_operator(file: Path) -> None:
    assert named(file.read_text(encoding="utf-8")) == [], "ask a trait of its contract (rtaccel.core.registry.Operator)"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('if node.op == "conv": pass', 1),
        ('if "linear" != stage.op: pass', 1),
        ('ok = op in ("lstm", "gru")', 2),
        ('ROWS = ("softmax", "norm")', 2),
        ('SCHEMES = {"linear": 1}\nSCHEMES["conv"]', 2),
        ('match op:\n    case "pool": pass', 1),
        ('op.startswith("fused_linear")', 1),
        ('cost = operator("linear").cost', 1),
        ('taken = [d for d in ready if d.op == "torch"]', 1),
        ('if node.op == "placeholder": pass', 0),
        ('Stage("linear", "linear", inner, outer)', 0),
        ('versions = {"torch": 1}', 0),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(named(source)) == count


CONTRACT = '''
"""Toy scale: y[m, c] = |x[m, c]| * 3, float32 [M, C]."""

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ROWS
from rtaccel.core.stage import Stage, Value
import torch


def reference(stage, x):
    return (x.abs() * 3,)


def cases():
    stage = Stage("toy_scale", "case", (Value("x", 5),), (Value("y", 5),))
    yield Case("M2-C5", stage, lambda seed: (torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)),))


OPERATOR = register_operator(
    Operator(
        name="toy_scale",
        axes={"x": ("M", "C"), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=lambda problem: Cost(bytes=8 * problem.matrix_rows * problem.out_widths[0], flops=problem.matrix_rows),
        lower=lambda stage: {},
        rows_needed=ROW_BY_ROW,
        streaming=STREAMS_ROWS,
    )
)
'''
PORTABLE = '''
"""Toy scale in plain torch."""

from rtaccel.core.registry import Impl, register_impl


def prepare(stage, problem):
    return lambda x: (x.abs() * 3,)


register_impl(Impl("toy_scale", "portable_toy", "portable", 0, lambda problem: None, prepare))
'''
RULE = '''
"""|x| * 3."""

import torch

from rtaccel.convert.patterns.rules import rule


@rule(torch.ops.aten.abs.default)
def _toy(call):
    view = call.rows(call["self"])
    return call.row_wise("toy_scale", view, call.width(view))
'''
OPERATOR_IN_USE = """
import torch, rtaccel as rt
from torch import nn
from rtaccel.core.registry import operators

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(torch.abs(self.a(x))[:, -1])

class Meaning(Model):
    def forward(self, x):
        return self.b((torch.abs(self.a(x)) * 3)[:, -1])

torch.manual_seed(0)
model, x = Model().eval(), torch.randn(1, 7, 6)
meaning = Meaning().eval()
meaning.load_state_dict(model.state_dict())
for scheme, calibration in (("float32", None), ("w8a8", torch.randn(32, 7, 6))):
    fast = rt.compile(model, (x,), scheme, calibration=calibration, strict=True, verify=False)
    assert "toy_scale" in fast.explain() and "portable_toy" in fast.explain(), fast.explain()
    assert (fast(x) - meaning(x)).abs().max() < (1e-5 if scheme == "float32" else 0.2)
    toy = next(s for s in fast._program.stages if s.op == "toy_scale")
    assert toy.outputs[0].steps == 1, "its dead rows are computed"
case = next(iter(operators()["toy_scale"].cases()))
assert torch.equal(operators()["toy_scale"].reference(case.stage, *case.make(0))[0], case.make(0)[0].abs() * 3)
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package with its kernels, as a wheel lays them out, in a folder of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "kernels", "*.cc", "*.h")
    shutil.copytree(ROOT / "rtaccel", tmp_path / "rtaccel", ignore=ignored)
    shutil.copytree(
        ROOT / "kernels", tmp_path / "rtaccel" / "kernels", ignore=shutil.ignore_patterns("__pycache__", "*.cc", "*.h")
    )
    for library in Path(native.__file__).parent.glob("*.so*"):
        shutil.copy(library, tmp_path / "rtaccel")
    return tmp_path


def _write(folder: Path, **parts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in parts.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")


def _run(folder: Path, code: str) -> None:
    """In a process that has the package of the folder and no other."""
    apart = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    check = f"import rtaccel\nassert rtaccel.__file__.startswith({str(folder)!r}), rtaccel.__file__\n"
    done = subprocess.run(
        [*PYTHON, "-W", "ignore", "-c", apart + check + code],
        capture_output=True, text=True, timeout=300, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_an_operator_is_a_folder_and_a_rule(copied: Path) -> None:
    """It compiles, keeps its rows, is explained, and equals its reference; no other file knows of it."""
    _write(
        copied / "rtaccel" / "kernels" / "toy_scale", __init__='"""Toy scale."""', contract=CONTRACT, portable=PORTABLE
    )
    _write(copied / "rtaccel" / "convert" / "patterns", toy=RULE)
    _run(copied, OPERATOR_IN_USE)


SCHEME = """
    @dataclass(frozen=True)
    class Toy(Scheme):
        name: ClassVar[str] = "toy"
        weight_format: ClassVar[str] = "toy"
"""
FORMAT = '''
"""int8 weights of 3 bits: every number is a multiple of 32."""

from rtaccel.formats import int8


def quantize_weight(weight, op="linear"):
    q, scale = int8.quantize_weight(weight, op)
    return (q.float() / 32).round().clamp(-3, 3).mul(32).to(q.dtype), scale


def stage_weights(weight, scheme):
    return dict(zip(("weight", "weight_scale"), quantize_weight(weight))), {}
'''
STORED = '''
"""The numbers of a linear layer with weights of 3 bits."""

from dataclasses import dataclass

from torch import Tensor

from rtaccel.core.scheme import Toy
from rtaccel.formats import toy
from rtaccel.nn.params.linear_w8a8 import Int8Weight


@dataclass(frozen=True, eq=False)
class LinearToy(Int8Weight):
    SCHEME = Toy

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None

    @classmethod
    def quantized(cls, op, weight, size):
        return dict(zip(("weight", "weight_scale"), toy.quantize_weight(weight, op)))
'''
SCHEME_IN_USE = """
import torch, rtaccel as rt
from torch import nn
from rtaccel.formats import toy

torch.manual_seed(0)
model, x = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).eval(), torch.randn(1, 64)
fast = rt.compile(model, (x,), "toy")
weights = [s.tensors["weight"] for s in fast._program.stages]
assert all((w % 32 == 0).all() and w.dtype == torch.int8 for w in weights), weights
layer = rt.nn.QuantLinear.from_float(model[0], "toy")
q, scale = toy.quantize_weight(model[0].weight)
want = nn.functional.linear(x, q * scale[:, None], model[0].bias)
assert (layer(x) - want).abs().max() < 1e-2 * want.abs().max()
rt.quantize_(model, "toy", force=True)
assert (rt.compile(model, (x,))(x) - fast(x)).abs().max() < 1e-3
conv = rt.compile(nn.Conv1d(3, 4, 3).eval(), (torch.randn(1, 3, 9),), "toy")
assert "computed as float32: there is no toy kernel for conv" in conv.explain()
"""


def test_a_scheme_of_linear_layers_is_a_class_a_format_and_its_numbers(copied: Path) -> None:
    """On a kernel that is there. With one of its own it is three files more: its contract, its C++, and its public name."""
    core = copied / "rtaccel" / "core" / "scheme.py"
    core.write_text(core.read_text(encoding="utf-8") + textwrap.dedent(SCHEME), encoding="utf-8")
    _write(copied / "rtaccel" / "formats", toy=FORMAT)
    _write(copied / "rtaccel" / "nn" / "params", linear_toy=STORED)
    _run(copied, SCHEME_IN_USE)
