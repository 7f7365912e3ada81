"""Where a window of a recurrent stack is `cuda_window`: on a card that holds all weights, where the model says it is faster.

What it is compared with is `triton_stack`, in the same cycles. No card has confirmed either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._persistent.card import Card, card
from rtaccel.kernels.recurrent.cuda.config import (
    CELL_CLOCKS,
    EXCHANGE_CLOCKS,
    L2_CLOCKS,
    LINE4_CLOCKS,
    LINE_CLOCKS,
    STRAGGLER_CLOCKS,
    SUM_CLOCKS,
)
from rtaccel.kernels.recurrent.cuda.fit import fitted
from rtaccel.kernels.recurrent.cuda.window import Window, group_of, prepared, unsupported
from rtaccel.kernels.recurrent.cuda.window_config import BARRIER_CLOCKS, GHZ, START_CLOCKS, WindowConfig, select_window
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import config as triton_config

NAME = "cuda_window"
X_CLOCKS, BARRIERS = 300, 4
"""Of `triton_stack`: x of a time step comes from L2 when it is needed; barriers of a layer, for what moves between threads."""

CLEARLY_LESS = 0.85
"""Times what `triton_stack` takes: what a model cannot tell apart stays with the kernel that was there."""


def triton_us(problem: Problem, gates: int, multiprocessors: int) -> float | None:
    """What `triton_stack` takes; None where it does not compute the problem."""
    if triton_config.unsupported(problem) is not None:
        return None
    found = triton_config.select_config(problem, gates, multiprocessors)
    if isinstance(found, str):
        return None
    g, threads = found.geometry, 32 * found.num_warps
    line = LINE4_CLOCKS if found.group else LINE_CLOCKS
    each = float(X_CLOCKS)
    for layer, words in enumerate(found.layer_words):
        products = words / 4 / threads * line * max(found.num_warps / 4, 1)
        again = 0.0 if layer < found.layers_in_registers else 4 * words * L2_CLOCKS
        each += max(products, again) + 2 * 6 * SUM_CLOCKS + CELL_CLOCKS + BARRIERS * BARRIER_CLOCKS
        each += EXCHANGE_CLOCKS + STRAGGLER_CLOCKS * found.parts if found.parts > 1 else 0
    streams = problem.rows * g.batch
    rounds = -(-streams // max(multiprocessors // found.parts, 1))
    load = 4 * sum(found.layer_words) * L2_CLOCKS
    return rounds * (START_CLOCKS + load + g.time * each) / GHZ / 1e3


def select(problem: Problem, gates: int) -> tuple[WindowConfig | None, str]:
    """The form of a window on the card that is here, or None and why there is none."""
    reason = unsupported(problem)
    if reason is not None:
        return None, reason
    found, reason = fitted(
        lambda of: _fitting(problem, gates, of), lambda cut: Window.of(problem, cut).kernel, "all weights"
    )
    if found is None:
        return None, reason
    of = card()
    ours, other = window_us(problem, found, of), triton_us(problem, gates, of.multiprocessors)
    if other is not None and ours > CLEARLY_LESS * other:
        return None, f"would take {ours:.3g} us and triton_stack {other:.3g} us, by the model of both"
    return found, cuda_launch.unavailable(Window.of(problem, found).kernel) or ""


def window_us(problem: Problem, config: WindowConfig, of: Card) -> float:
    return config.window_us(problem.rows * config.geometry.batch, of.multiprocessors)


def _fitting(problem: Problem, gates: int, of: Card) -> WindowConfig | None:
    geometry = Geometry.of(problem.attrs)
    streams = max(problem.rows * geometry.batch, 1)
    return select_window(geometry, problem.in_widths[0], gates, group_of(problem), streams, of)


def supports(gates: int) -> Callable[[Problem], str | None]:
    def reason(problem: Problem) -> str | None:
        return select(problem, gates)[1] or None

    return reason


def why(gates: int) -> Callable[[Problem], str]:
    def said(problem: Problem) -> str:
        found, _ = select(problem, gates)
        assert found is not None
        other = triton_us(problem, gates, card().multiprocessors)
        instead = "" if other is None else f", where triton_stack takes {other:.3g} us"
        return f"{found.where()}: {window_us(problem, found, card()):.3g} us by the model{instead}"

    return said


def prepare(gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> Callable[[Stage, Problem], Prepared]:
    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        config, reason = select(problem, gates)
        assert config is not None, reason
        return prepared(stage, problem, config, lower(stage))

    return prepare_stage


def register(op: str, gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> None:
    """`cuda_window` of an operator."""
    register_impl(Impl(op, NAME, "triton", 30, supports(gates), prepare(gates, lower), why(gates)))
