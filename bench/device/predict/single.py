"""Single layers as a whole graph has them: W8A8 with what rounds x, sparse layers, and warm ones.

The launches are those of a captured plan, counted as `bench/device/layers.py` counts one. Sparse weights are the table's own, so
what is kept of them is known to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from bench.device import layers
from bench.device.launches import HIGH as WARM_HIGH
from bench.device.launches import LOW as WARM_LOW
from bench.device.launches import Code, compiled
from bench.device.layers import Card, Launch
from bench.device.planned.layers import DYNAMIC, INT4, LINEAR, ONE_ROW, SPARSE_GOALS, SPARSE_PATTERNS
from rtaccel.plan.group import Subgraph

WARM: tuple[Card, Card] = (
    replace(layers.LOW, bandwidth=layers.LOW.l2, memory_us=WARM_LOW.memory_us),
    replace(layers.HIGH, bandwidth=layers.HIGH.l2, memory_us=WARM_HIGH.memory_us),
)
"""Where L2 holds the weights."""

SPARSE_SIZE = 4096


@dataclass(frozen=True)
class SingleLayer:
    """size: MxKxN. pattern: of sparse weights, "" for dense ones."""

    size: str
    scheme: str
    pattern: str = ""
    warm: bool = False

    @property
    def title(self) -> str:
        if self.pattern:
            return f"sparse {self.size} {self.pattern} cold, rtaccel {self.scheme}"
        return (
            f"linear {self.size}, rtaccel {self.scheme} graph"
            if self.warm
            else f"linear {self.size} cold, rtaccel {self.scheme}"
        )

    @property
    def ends(self) -> tuple[Card, Card]:
        return WARM if self.warm else (layers.LOW, layers.HIGH)


def rows() -> Iterator[SingleLayer]:
    for size in LINEAR:
        yield SingleLayer(size, "w8a8")
    yield SingleLayer(ONE_ROW, DYNAMIC)
    for size in LINEAR:
        for scheme in (*INT4, "w8a8"):
            yield SingleLayer(size, scheme, warm=True)
    for m in (1, 16):
        for pattern in SPARSE_PATTERNS:
            size = f"{m}x{SPARSE_SIZE}x{SPARSE_SIZE}"
            yield SingleLayer(size, "w8a8", pattern)
            if (m, pattern) in SPARSE_GOALS:
                yield SingleLayer(size, DYNAMIC, pattern)


def launches_of(layer: SingleLayer, code: Code = compiled) -> list[Launch]:
    """As `rt.compile` would have them on an H100, in the form that the model of time picks."""
    import torch
    from torch import nn

    from bench.device.rows.graphs import calibration, given, scheme_of
    from bench.device.rows.sparse import layer_of
    from rtaccel.convert.passes.sparse_gpu import in_predicted_form
    from rtaccel.runtime.gpu.ahead import _lowered

    if layer.pattern:
        m, n = int(layer.size.split("x")[0]), SPARSE_SIZE
        model: Any = nn.Sequential(layer_of(n, layer.pattern)).eval()
        x, data = torch.randn(m, n), [torch.randn(256, n)]
    else:
        model, x = given("linear", layer.size)
        data = calibration(x)  # type: ignore[assignment]
    program, count = _lowered(model, (x,), scheme_of(layer.scheme), data)
    (step,) = in_predicted_form(program, count).steps
    return launches_of_group(step.group, count, code)  # type: ignore[union-attr]


def launches_of_group(group: Subgraph, count: int, code: Code = compiled) -> list[Launch]:
    """Those of a captured plan for so many samples."""
    from bench.zoo.captured import given_of, plan_of
    from rtaccel.kernels._gpu.triton_launch import noted, played

    with played():
        plan, _ = plan_of(group, count)
        tensors = given_of(group, count)
        with noted() as found:
            plan.call(tensors)
    return [layers.launched(note, code) for note in found]


def predicted() -> dict[str, Any]:
    """Compiles every form for sm_90."""
    return {layer.title: layers.told(layer.size, launches_of(layer), layer.ends) for layer in rows()}
