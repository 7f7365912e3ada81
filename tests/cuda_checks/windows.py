"""Windows of LSTM and GRU by kernels/recurrent/cuda/window.cu on a CPU (on_host.py), for the contracts to be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda import window
from rtaccel.kernels.recurrent.cuda.window_config import WindowConfig, select_window
from rtaccel.kernels.recurrent.layout import Geometry
from tests.cuda_checks import on_host
from tests.cuda_checks.on_host import HostLaunch

GATES = {"lstm": 4, "gru": 3}


def cut(geometry: Geometry, inputs: int, op: str, group: int, parts: int, lanes: int, kept: int) -> WindowConfig:
    """A form of so many programs and lanes, with so many steps in registers."""
    units = -(-geometry.hidden // (4 * parts)) * 4
    found = WindowConfig(geometry, inputs, GATES[op], group, None, units, parts, lanes, cluster=parts > 1)
    kept = min(kept, found.steps)
    return WindowConfig(
        geometry, inputs, GATES[op], group, None, units, parts, lanes, kept, found.steps - kept, cluster=parts > 1
    )


def chosen(stage: Stage, samples: int = 1, of: Card | None = None) -> WindowConfig:
    """The form of a card."""
    problem = Problem.of(stage, samples, "cuda")
    g = Geometry.of(stage.attrs)
    found = select_window(
        g, problem.in_widths[0], GATES[stage.op], window.group_of(problem), samples * g.batch, of or Card()
    )
    assert found is not None
    return found


@contextmanager
def on_this_cpu(host: HostLaunch | None = None) -> Iterator[None]:
    with mock.patch.object(cuda_launch, "bind", (host or HostLaunch()).bind):
        yield


def computed(
    stage: Stage, inputs: tuple[Tensor, ...], config: WindowConfig, host: HostLaunch | None = None
) -> tuple[Tensor, ...]:
    """The outputs of a stage by the kernel; what it does not write stays NaN, or 85."""
    with on_this_cpu(host), on_host.results_filled():
        call = window.prepared(
            stage, Problem.of(stage, inputs[0].shape[0], "cpu"), config, operator(stage.op).lower(stage)
        )
        return call(*inputs)


def differing(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> list[int]:
    """How many numbers of each output are others."""
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in want]
    return [int((~((g == w) | (g != g) & (w != w))).sum()) for g, w in zip(got, want)]
