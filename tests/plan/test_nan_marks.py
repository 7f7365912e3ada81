"""Float32 that becomes int8 inside an operator, where stages are launched one by one: a NaN must not become a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.registry import operators
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.plan.nan_marks import marked_values


def _loses_nan(stage: Stage) -> bool:
    """Whether its inputs are float32, and one of its outputs int8 with a static scale."""
    floats = all(value.dtype == "float32" for value in stage.inputs)
    return floats and any(value.dtype == "int8" and value.quant is not None for value in stage.outputs)


@pytest.mark.parametrize("name", operators())
def test_stages_that_would_lose_a_nan_are_marked(name: str) -> None:
    operator = operators()[name]
    found = [case.stage for case in operator.cases() if _loses_nan(case.stage)]
    assert found or name not in ("attention", "conv", "norm", "pool", "quantize", "softmax"), "no case shows it"
    assert all(operator.int8.marks(stage) for stage in found)


@pytest.mark.parametrize("backend", [None, "portable"])
def test_softmax_before_a_static_layer(backend: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(8, 3)).eval()
    fast = rt.compile(
        model, (torch.randn(3, 8),), "w8a8", calibration=torch.randn(64, 8), backend=backend, verify=False
    )
    x = torch.randn(3, 8)
    x[1, 2] = float("nan")
    y = fast(x)
    assert [stage.op for stage in fast._program.stages] == ["softmax", "linear"]
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", [None, "portable"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", ["w8a8", "w4a8", "sparse"])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_layer_of_dynamic_rows_before_a_static_one(backend: str | None, bad: float, first: str, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3)).eval()
    if first == "sparse":
        rt.sparsify_(model, rt.Unstructured(0.9), filter_fn=lambda module, name: name == "0")
    scheme = {"0": rt.W4A8() if first == "w4a8" else rt.W8A8("dynamic"), "2": rt.W8A8("static")}
    example, data = torch.randn(rows, 64), torch.randn(64, 64)
    fast = rt.compile(model, (example,), scheme, calibration=data, backend=backend, verify=False)
    x = torch.randn(rows, 64)
    row = rows // 2
    x[row, 2] = bad
    y = fast(x)
    others = [r for r in range(rows) if r != row]
    assert y[row].isnan().all() and y[others].isfinite().all()


def layer(x: Value, y: Value, how: str = "static") -> Stage:
    attrs = {"input_format": how, "x_scale": 0.1, "x_zero_point": 3} if how == "static" else {"input_format": how}
    return Stage("fused_linear", y.name, (x,), (y,), {}, attrs)


def stack(x: Value, y: Value, batch: int = 1) -> Stage:
    """A GRU with weights of one number, which only their dtype matters of."""
    attrs = {"batch": batch, "directions": 1, "x_scale": 0.1, "x_zero_point": 3}
    return Stage("gru", y.name, (x,), (y,), {"weight_ih_l0": torch.zeros(1, dtype=torch.int8)}, attrs)


A, B, C = (Value(name, 4) for name in "abc")
Q = Value("q", 4, "int8", QParams(0.1, 0))


@pytest.mark.parametrize(
    ("stages", "floats", "looked_at"),
    [
        ([layer(A, B)], [B], []),
        ([layer(A, B), layer(B, C)], [C], []),
        ([layer(A, B), layer(B, C, "int8")], [C], []),  # rows with a scale each hand it on too
        ([layer(A, B), layer(B, C)], [B, C], ["b"]),  # one result alone does not say it of the other
        ([layer(A, Q)], [C], ["a"]),  # int8 has no NaN
        ([layer(A, B), layer(B, Q)], [C], ["b"]),  # b is looked at, and is NaN where a is
        ([layer(A, B), layer(B, C, "none")], [C], ["a"]),  # floats alone say nothing
        (
            [layer(replace(A, steps=2), replace(B, steps=2))],
            [replace(B, steps=2)],
            ["a"],
        ),  # a row is not all of a sample
        ([stack(replace(A, steps=5), B), layer(B, C)], [C], []),  # all of the sample is NaN
        (
            [stack(replace(A, steps=5), replace(B, steps=5)), layer(replace(B, steps=5), replace(C, steps=5))],
            [replace(C, steps=5)],
            [],
        ),  # so all of its rows are
        ([stack(replace(A, steps=5), Q), layer(B, C)], [C], ["a"]),
        (
            [layer(replace(A, steps=2), replace(B, steps=2)), layer(replace(B, steps=2), replace(Q, steps=2))],
            [C],
            ["b"],
        ),  # b is looked at, of which one row is enough
        ([stack(replace(A, steps=4), replace(B, steps=2), batch=2)], [replace(B, steps=2)], ["a"]),
    ],
)
def test_what_a_plan_looks_at(stages: list[Stage], floats: list[Value], looked_at: list[str]) -> None:
    assert [v.name for v in marked_values(stages, floats)] == looked_at
