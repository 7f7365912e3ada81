"""Windows in float32 by kernels/recurrent/cuda/float32/layer.cu on a CPU (on_host.py), for the contracts to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from rtaccel.core.registry import Prepared, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from rtaccel.kernels.recurrent.cuda.float32.config import LayerConfig
from rtaccel.kernels.recurrent.cuda.float32.layer import ThroughTime
from rtaccel.kernels.recurrent.triton import float32
from rtaccel.kernels.recurrent.triton.float32 import GATES
from tests.cuda_checks import on_host
from tests.cuda_checks.on_host import HostLaunch


def cut(hidden: int, op: str, parts: int, lanes: int, kept: int) -> LayerConfig:
    """A form of so many programs and lanes, with so many steps in registers."""
    units = -(-hidden // (4 * parts)) * 4
    found = LayerConfig(hidden, GATES[op], units, parts, lanes)
    kept = min(kept, found.steps)
    return LayerConfig(hidden, GATES[op], units, parts, lanes, kept, found.steps - kept)


def product(rows: int, outputs: int, inputs: int) -> Specialisation:
    """In the place of a linear layer's form: `multiplied` computes it."""
    return Specialisation("product", None, {}, {}, Tiling(1, 1, 1, num_warps=1))


def multiplied(spec: Specialisation) -> Callable[..., None]:
    """In the place of triton_launch.bind, for `product`: by torch."""

    def launch(grid: tuple[int, ...], **given: Any) -> None:
        weight, bias, rows = given["weight_ptr"], given["bias_ptr"], given["rows"]
        y = torch.addmm(bias, given["x_ptr"].reshape(rows, -1), weight.t())
        given["y_ptr"].copy_(y.flatten())

    return launch


def prepared(stage: Stage, samples: int, config: LayerConfig, host: HostLaunch | None = None) -> Prepared:
    lower = operator(stage.op).lower
    assert lower is not None
    with (
        mock.patch.object(cuda_launch, "bind", (host or HostLaunch()).bind),
        mock.patch.object(float32, "bind", multiplied),
    ):
        through: Callable[[Problem], float32.ThroughOf] = lambda _: lambda layer, own: ThroughTime(layer, own, config)  # noqa: E731
        return float32.prepare(lower, product, through)(stage, Problem.of(stage, samples, "cpu"))


def computed(
    stage: Stage, inputs: tuple[Tensor, ...], config: LayerConfig, host: HostLaunch | None = None
) -> tuple[Tensor, ...]:
    """The outputs of a stage by the kernel; what it does not write stays NaN."""
    call = prepared(stage, inputs[0].shape[0], config, host)
    with on_host.results_filled():
        return tuple(call(*inputs))


def far(stage: Stage, inputs: tuple[Tensor, ...], got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> list[int]:
    """How many numbers of each output are further from the contract's than its tolerance."""
    tolerance = operator(stage.op).tolerance(stage, *inputs)
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in want]
    return [int((~tolerance.within(g, w)).sum()) for g, w in zip(got, want)]
