"""Where a float32 window of a recurrent stack is `cuda_float32`: on a card whose chip holds the weights of h of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rtaccel.core.registry import Impl, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._persistent.card import Card, card
from rtaccel.kernels.recurrent.cuda.fit import fitted
from rtaccel.kernels.recurrent.cuda.float32.config import LayerConfig, select_layer
from rtaccel.kernels.recurrent.cuda.float32.layer import CudaLayer, ThroughTime
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import float32
from rtaccel.kernels.recurrent.triton.float32 import GATES, LayerForm, Product, forms_of

NAME = "cuda_float32"


def select(problem: Problem) -> tuple[LayerConfig | None, str]:
    """The cut of a stage's layers, which are alike to it, on the card that is here; or None and why there is none."""
    reason = float32.supports(problem)
    if reason is not None:
        return None, reason
    if Geometry.of(problem.attrs).time == 1:
        return None, "computes a window, not one time step"
    first = forms_of(problem)[0]
    found, reason = fitted(
        lambda of: _fitting(problem, of), lambda cut: CudaLayer(first, cut).kernel, "a layer's weights of h"
    )
    return found, reason if found is None else cuda_launch.unavailable(CudaLayer(first, found).kernel) or ""


def _fitting(problem: Problem, of: Card) -> LayerConfig | None:
    g = Geometry.of(problem.attrs)
    return select_layer(g.hidden, GATES[problem.op], g.time, _streams(problem), of)


def _streams(problem: Problem) -> int:
    """Those of both directions."""
    g = Geometry.of(problem.attrs)
    return max(problem.rows * g.batch * g.directions, 1)


def supports(problem: Problem) -> str | None:
    return select(problem)[1] or None


def why(problem: Problem) -> str:
    found, _ = select(problem)
    assert found is not None
    us = found.layer_us(Geometry.of(problem.attrs).time, _streams(problem), card().multiprocessors)
    return f"{found.where()}: {us:.3g} us a layer by the model, beside one product of all time steps with x"


def _through(problem: Problem) -> Callable[[LayerForm, Mapping[str, Tensor]], ThroughTime]:
    config, reason = select(problem)
    assert config is not None, reason
    return lambda layer, own: ThroughTime(layer, own, config)


def register(op: str, lower: Callable[[Stage], Mapping[str, Any]], product: Product) -> None:
    """`cuda_float32` of an operator."""
    register_impl(Impl(op, NAME, "triton", 20, supports, float32.prepare(lower, product, _through), why))
