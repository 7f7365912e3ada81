"""What float32 stages make is rounded to int8 behind them. So activations and norms have the bits of the CPU: a unit more in the
last place would now and then be another int8 number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.kernels._common.activations import ROWS
from rtaccel.kernels.norm import contract

DEVICE = "cpu" if settings.triton_interpret() else "cuda"
EDGES = (
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-42,
    -1e-42,
    87.7,
    -87.7,
    -88.5,
    89.0,
    7.9,
    -7.9,
    20.5,
    3.0,
    -3.0,
)
"""Where a formula changes, and what no formula is made for."""


def result(backend: str, stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    (impl, *_), device = impls(backend, stage.op), "cpu" if backend == "cpu" else DEVICE
    made = impl.prepare(stage, Problem.of(stage, len(inputs[0]), device))(*(x.to(device) for x in inputs))
    return tuple(y.cpu() for y in ((made,) if isinstance(made, Tensor) else made))


def same_bits(stage: Stage, *inputs: Tensor) -> None:
    for got, want in zip(result("triton", stage, *inputs), result("cpu", stage, *inputs)):
        got, want = got.view(want.shape), want.contiguous()
        if want.dtype == torch.float32:
            assert torch.equal(got.isnan(), want.isnan())
            got, want = (t.nan_to_num(7.0, float("inf"), -float("inf")).view(torch.int32) for t in (got, want))
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ROWS)
def test_an_activation_has_the_bits_of_the_cpu(name: str) -> None:
    scales = torch.tensor([1e-3, 0.1, 1.0, 3.0, 10.0, 100.0]).repeat_interleave(300)
    x = torch.cat([torch.tensor(EDGES), torch.randn(len(scales)) * scales])[None]
    x, value = x.contiguous(), x.shape[1]
    attrs = {"activation": name, "activation_parameter": ROWS[name].example}
    same_bits(Stage("pointwise", "f", (Value("x", value),), (Value("y", value),), {}, attrs), x)


@pytest.mark.parametrize("width", [1, 17, 64, 65, 100, 1024 + 3])
@pytest.mark.parametrize(
    ("kind", "gives", "residual"), [("layer", "y", False), ("layer", "q,sum", True), ("rms", "q,row_scale", False)]
)
def test_a_norm_has_the_bits_of_the_cpu(kind: str, gives: str, residual: bool, width: int) -> None:
    quant, activation = QParams(0.03, -5) if gives == "q,sum" else None, "tanh" if gives == "y" else "none"
    stage = contract.make_stage(width, kind, gives, quant, residual, activation=activation)
    x = [torch.randn(5, width) * torch.tensor([[1e-3], [1.0], [30.0], [1.0], [1.0]]) + 0.3 for _ in stage.inputs]
    if quant is None:  # else the plan hands a NaN on
        x[0][3, width // 2] = float("nan")
    same_bits(stage, *x)
