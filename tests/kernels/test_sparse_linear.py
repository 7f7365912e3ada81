"""Sparse linear: its three storage forms decoded in Python, the results of the dense layer, NaN rows, and bad structure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from tests.support import decoded
from tests.support.networks.int8_layers import same
from tests.support.one_stage import INF, NAN, check_no_samples, check_same, check_samples_apart, operators_of, runs

EPS = torch.finfo(torch.float32).eps
LAYOUTS = ("window", "blocks", "2:4")
SIZES = [(1, 1, 1), (3, 5, 7), (2, 17, 33), (4, 70, 131)]
SPARSE = operator("sparse_linear")


def csr(values: Tensor, columns: Tensor, starts: Tensor, n: int, k: int) -> Tensor:
    dense = torch.zeros(n, k, dtype=values.dtype)
    for row in range(n):
        for entry in range(int(starts[row]), int(starts[row + 1])):
            dense[row, int(columns[entry])] = values[entry]
    return dense


def blocks(values: Tensor, columns: Tensor, starts: Tensor, n: int, k: int) -> Tensor:
    _, height, width = values.shape
    dense = torch.zeros(-(-n // height) * height, -(-k // width) * width, dtype=values.dtype)
    for row in range(len(starts) - 1):
        for entry in range(int(starts[row]), int(starts[row + 1])):
            left = int(columns[entry]) * width
            dense[row * height : (row + 1) * height, left : left + width] = values[entry]
    return dense[:n, :k]


def two_of_four(values: Tensor, positions: Tensor, n: int, k: int) -> Tensor:
    groups = values.shape[1] // 2
    dense = torch.zeros(n, 4 * groups, dtype=values.dtype)
    for row in range(n):
        for group in range(groups):
            byte = int(positions[row, group // 2])
            nibble = byte // 16 if group % 2 else byte % 16
            for i, place in enumerate((nibble % 4, nibble // 4)):
                dense[row, 4 * group + place] = values[row, 2 * group + i]
    return dense[:, :k]


def dense_weight(stage: Stage) -> Tensor:
    """[N, K], of what the tensors of the stage say."""
    t, n, k = stage.tensors, stage.outputs[0].width, stage.inputs[0].width
    if stage.attrs["layout"] == "2:4":
        values = t["weight"]
        if values.dtype == torch.uint8:
            values = decoded.int4_values(values, 2 * values.shape[1])
        return two_of_four(values, t["positions"], n, k)
    read = blocks if stage.attrs["layout"] == "blocks" else csr
    return read(t["weight"], t["columns"], t["row_starts"], n, k)


def stage_of(layout: str, scheme: str, k: int, n: int, density: float = 0.3, **options: Any) -> Stage:
    return contract.make_stage(k, n, scheme, layout, density, seed=n + k, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_float32_against_a_float64_product(rows: int, n: int, k: int, layout: str) -> None:
    stage = stage_of(layout, "float32", k, n)
    weight, x = dense_weight(stage).double(), torch.randn(rows, k)
    assert int((weight != 0).sum()) < n * k or n * k == 1
    bias = stage.tensors["bias"].double()
    want, size = x.double() @ weight.T + bias, x.double().abs() @ weight.abs().T + bias.abs()
    for name, run in runs(stage, rows).items():
        bound = 2 * EPS * size if name == "reference" else EPS * (k + 2) * size
        assert ((run(x)[0].double() - want).abs() <= bound).all(), name


@pytest.mark.parametrize(("scheme", "out"), [("static", "float32"), ("static", "int8"), ("dynamic", "float32")])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_int8_is_the_formula_of_the_dense_layer(rows: int, n: int, k: int, layout: str, scheme: str, out: str) -> None:
    stage = stage_of(layout, scheme, k, n, activation="relu", out=out)
    inputs = linear.make_inputs(stage, rows, seed=k)
    check_same(stage, inputs, (decoded.int8_layer(stage, dense_weight(stage), *inputs),))


@pytest.mark.parametrize("scheme", ["w4a8-static", "w4a8-dynamic"])
def test_int4_in_two_of_four(scheme: str) -> None:
    stage = stage_of("2:4", scheme, 132, 19, group_size=32)
    inputs = linear.make_inputs(stage, 4, seed=1)
    scales = stage.tensors["group_scale"].double()[:, [i // 32 for i in range(132)]]
    weight, real = dense_weight(stage).double() * scales, decoded.real_input(stage, *inputs)
    bias = stage.tensors["bias"].double()
    want, size = real @ weight.T + bias, real.abs() @ weight.abs().T + bias.abs()
    for name, run in runs(stage, 4).items():
        assert ((run(*inputs)[0].double() - want).abs() <= EPS * 12 * size).all(), name


@pytest.mark.parametrize("scheme", ["float32", "static", "dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_of_zeros_leaves_the_bias(layout: str, scheme: str) -> None:
    stage = stage_of(layout, scheme, 40, 9, density=0.0)
    stage = replace(stage, tensors={**stage.tensors, "weight": torch.zeros_like(stage.tensors["weight"])})
    inputs = linear.make_inputs(stage, 3, seed=4)
    check_same(stage, inputs, (stage.tensors["bias"].expand(3, 9),))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_that_is_not_finite_is_nan(layout: str, bad: float) -> None:
    """Also where the column has no weight at all: what is stored does not tell a NaN apart."""
    stage = stage_of(layout, "float32", 30, 12, density=0.2)
    x = torch.randn(4, 30)
    column = int((dense_weight(stage) != 0).sum(0).argmin())
    x[2, column] = bad
    for name, run in runs(stage, 4).items():
        y = run(x)[0]
        assert y[2].isnan().all() and torch.isfinite(y[[0, 1, 3]]).all(), name


@pytest.mark.parametrize("scheme", ["float32", "static", "dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_apart(layout: str, scheme: str) -> None:
    stage = stage_of(layout, scheme, 37, 21)
    check_samples_apart(stage, linear.make_inputs(stage, 5, seed=2))
    check_no_samples(stage)


@pytest.mark.parametrize("activation", ["static", "dynamic"])
def test_compiled(activation: str) -> None:
    """Whatever form is measured to be the fastest, int8 gives the bits of the dense layers in plain torch."""
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(torch.rand(layer.weight.shape) > 0.9)
    calibration = [torch.randn(64, 96)] if activation == "static" else None
    dense, sparse = (
        rt.compile(model, (torch.randn(2, 96),), rt.W8A8(activation), calibration=calibration, verify=False, **options)
        for options in ({"backend": "portable"}, {"sparsity": rt.Unstructured()})
    )
    assert "linear" in operators_of(dense) and "sparse_linear" not in operators_of(dense)
    for rows in (0, 1, 2, 33):
        x = torch.randn(rows, 96)
        x[rows // 2 : rows // 2 + 1, 0] = NAN
        assert same(sparse(x), dense(x))


def changed(layout: str, **tensors: Any) -> Stage:
    """A good stage [8, 12] with other tensors; functions take the good one."""
    good = stage_of(layout, "float32", 12, 8, density=0.6)
    made = {name: t(good.tensors[name].clone()) if callable(t) else t for name, t in tensors.items()}
    return replace(good, tensors={**good.tensors, **made})


def swapped(t: Tensor) -> Tensor:
    t[0], t[1] = t[1].item(), t[0].item()
    return t


def with_first(value: float) -> Any:
    def change(t: Tensor) -> Tensor:
        t.view(-1)[0] = value
        return t

    return change


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (changed("window", columns=with_first(12)), r"columns\[0\] = 12; expected an index in 0\.\.11"),
        (changed("window", columns=with_first(-1)), r"columns\[0\] = -1"),
        (changed("window", columns=lambda t: t[:-1]), "one for each value"),
        (changed("window", columns=swapped), "ascending columns"),
        (changed("window", row_starts=with_first(1)), "ascending from 0"),
        (changed("window", row_starts=lambda t: t[:-1]), r"\[9\]"),
        (changed("window", row_starts=lambda t: t.long()), r"int32 \[9\]"),
        (changed("window", weight=lambda t: t[:, None]), r"\[entries\] or \[blocks, b, c\]"),
        (changed("window", weight=lambda t: t.half()), "float32, bfloat16 or int8"),
        (changed("blocks", columns=with_first(99)), r"columns\[0\] = 99"),
        (changed("blocks", columns=lambda t: t[:-1]), "one for each block"),
        (changed("2:4", positions=with_first(0b0000_0000)), "do not ascend"),
        (changed("2:4", positions=lambda t: t[:, :-1]), r"torch.uint8 \[8, 2\]"),
        (changed("2:4", weight=lambda t: t[:, :-1]), r"\[8, 6\]: two for every four of 12"),
    ],
)  # fmt: skip
def test_structure_that_stores_no_weight_is_refused(stage: Stage, words: str) -> None:
    with pytest.raises(rt.FormatError, match=f"sparse_linear: .*{words}"):
        SPARSE.lower(stage)
    with pytest.raises(rt.FormatError, match=words):
        SPARSE.check("load", stage, stage.tensors)


def test_weights_that_fit_no_form_are_refused() -> None:
    three = torch.tensor([[1.0, 2.0, 3.0, 0.0, 1.0]])
    with pytest.raises(rt.FormatError, match=r"more than two numbers in weight\[0, 0:4\]"):
        contract.stored(three, "2:4")
    k = linear.MAX_K + 1
    tensors = dict(contract.stored(torch.zeros(1, k), "window"), weight_scale=torch.ones(1))
    stage = Stage(
        "sparse_linear", "s", (Value("x", k, "int8", QParams(1.0, 0)),), (Value("y", 1),), tensors, {"layout": "window"}
    )
    with pytest.raises(rt.UnsupportedProblem, match="sparse_linear: got K = 65537; expected K <= 65536"):
        SPARSE.lower(stage)
