"""Sums of very many numbers of one sign keep their digits, in every kernel that adds, on every instruction set.

One number after the other would lose 40 to 150 roundings of the result for 65,536 numbers; sums of runs lose a few.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.deploy import wanted
from rtaccel.kernels.pool.triton import pool
from tests.support.one_stage import kernels

EPS = torch.finfo(torch.float32).eps
N = 65_536
ROUNDINGS = 16
"""Of the result: 512 numbers lose up to 11 where products are rounded before they are added, 128 sums of runs less."""

CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "sum of rows": (lambda x: x.sum(1), ((N, 64),)),
    "sum of rows of few columns": (lambda x: x.sum(1), ((N, 5),)),
    "sum along rows": (lambda x: x.sum(-1), ((3, N),)),
    "sum of strided numbers": (lambda x: x[:, :, ::7].sum(-1), ((3, 7 * N),)),
    "sum of blocks": (lambda x: x.sum((1, 3)), ((4096, 4, 16),)),
    "mean of rows": (lambda x: x.mean(1), ((N, 16),)),
    "mean of an image": (lambda x: x.mean((2, 3)), ((16, 256, 256),)),
    "average of one line": (lambda x: F.adaptive_avg_pool1d(x, 1), ((1, N),)),
    "average of lines": (lambda x: F.adaptive_avg_pool1d(x, 1), ((4, N),)),
    "average of windows": (lambda x: F.avg_pool1d(x, 16_384), ((1, N),)),
    "average of dense windows": (lambda x: F.avg_pool1d(x, 16_384, 1), ((1, 16_400),)),
    "average of uneven windows": (lambda x: F.adaptive_avg_pool1d(x, 3), ((1, N),)),
    "average of an image": (lambda x: F.adaptive_avg_pool2d(x, 1), ((4, 256, 256),)),
    "average of tall images": (lambda x: F.avg_pool2d(x, (N, 1), 1), ((1, N, 4),)),
    "product of long rows": (lambda a, b: a @ b, ((5, N), (N, 37))),
    "product with one column": (lambda a, b: a @ b, ((5, N), (N, 1))),
    "attention to many keys": (F.scaled_dot_product_attention, ((2, 3, 16), (2, N // 4, 16), (2, N // 4, 16))),
    "attention of many queries": (F.scaled_dot_product_attention, ((1, 40, 4), (1, N // 4, 4), (1, N // 4, 4))),
    "layer norm": (lambda x: F.layer_norm(x, (N,)), ((N,),)),
    "softmax": (lambda x: x.softmax(-1), ((2, N),)),
}


class Called(nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def check(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """With every kernel in C++ of each stage that adds."""
    with torch.no_grad():
        wanted = model.double()(*(x.double() for x in inputs))
        model.float()
    stages = rt.compile(model.eval(), inputs, verify=False)._program.stages
    made = {v.name for s in stages for v in s.outputs}
    read = dict.fromkeys(v.name for s in stages for v in s.inputs if v.name not in made)
    given = dict(zip(read, inputs, strict=True))
    calls = [kernels(stage) for stage in stages]
    names = {name for call in calls for name in call if name.startswith("cpu_") and name != "cpu_copy"}
    assert {"cpu_portable", "cpu_avx2"} & names
    for name in names:
        values = dict(given)
        for stage, call in zip(stages, calls):
            run = call.get(name) or next(run for other, run in call.items() if other.startswith("cpu_"))
            by_row = operator(stage.op).by_row
            shapes = ((v.width,) if by_row else v.shape for v in stage.inputs)
            results = run(*(values[v.name].reshape(-1, *shape) for v, shape in zip(stage.inputs, shapes)))
            values |= {v.name: t for v, t in zip(stage.outputs, results)}
        got = values[stages[-1].outputs[0].name].double().reshape(wanted.shape)
        error = float((got - wanted).abs().max() / wanted.abs().max())
        assert error <= ROUNDINGS * EPS, f"{name}: {error / EPS:.1f} roundings"


@pytest.mark.parametrize("name", CASES)
def test_sums(name: str) -> None:
    call, shapes = CASES[name]
    check(Called(call), tuple(torch.rand(1, *shape) for shape in shapes))


@pytest.mark.parametrize("columns", [1, 3, 33, 130])
@pytest.mark.parametrize("rows", [1, 13])
def test_linear(rows: int, columns: int) -> None:
    layer = nn.Linear(N, columns)
    nn.init.uniform_(layer.weight)
    check(Called(layer), (torch.rand(rows, N),))


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "groups"),
    [(8192, 4, 1, 1), (1025, 40, 4, 1), (2048, 40, 3, 1), (1, 5, 4096, 1), (2048, 4, 4, 1), (4096, 130, 1, 2)],
)
@pytest.mark.parametrize("steps", [5, 64, 300])
def test_convolution(channels: int, out: int, kernel: int, groups: int, steps: int) -> None:
    layer = nn.Conv1d(channels, out, kernel, groups=groups)
    nn.init.uniform_(layer.weight)
    check(layer, (torch.rand(1, channels, steps + kernel - 1),))


def test_every_room_means_the_same_run() -> None:
    """A packed program leaves long sums out by it, and Triton's pool adds by it."""
    header = Path(__file__).parents[3] / "kernels" / "_common" / "long_sums.h"
    (run,) = re.findall(r"kSumRun = (\d+);", header.read_text())
    assert wanted.LONG == pool.SUM_RUN == int(run)
