"""MLP: a chain of W8A8 linear layers with static scales, from float32 x to float32 y; one launch, or none at all.

    q_0 = quantise(x), q_i = linear_i(q_(i-1)) in int8, y = linear_L(q_(L-1)) in float32

Each step is that of `quantize` and `linear`, to the bit. x [M, K], weight_i [N_i, K_i] int8, weight_scale_i [N_i],
bias_i [N_i], i from 0; attrs "activations" and "parameters" of each layer, "scales" and "zero_points" of each layer's int8
input. The hidden activations are none, relu or leaky_relu, which are exact, so that a chain is exact up to its last.

A row of x that holds a NaN or an infinity gives NaN; others are untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Quant, Stage, Value
from rtaccel.kernels._shared.activations import HOMOGENEOUS
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.quantize import contract as quantize

PARTS = ("weight", "weight_scale", "bias")


def join(name: str, source: Stage, layers: Sequence[Stage]) -> Stage:
    """The chain of a `quantize` stage with a static scale and `linear` stages that follow each other."""
    tensors = {
        f"{part}_{i}": layer.tensors[part] for i, layer in enumerate(layers) for part in PARTS if part in layer.tensors
    }
    quants = [source.outputs[0].quant, *(layer.outputs[0].quant for layer in layers[:-1])]
    attrs = {
        "activations": tuple(str(layer.attrs.get("activation", "none")) for layer in layers),
        "parameters": tuple(float(layer.attrs.get("activation_parameter", 0.0)) for layer in layers),
        "scales": tuple(q.scale for q in quants if q is not None),
        "zero_points": tuple(q.zero_point for q in quants if q is not None),
        "widths": (source.inputs[0].width, *(layer.outputs[0].width for layer in layers)),
    }
    made = Stage("mlp", name, source.inputs, layers[-1].outputs, tensors, attrs)
    split(made)
    return made


def split(stage: Stage) -> tuple[Stage, tuple[Stage, ...]]:
    """The `quantize` and `linear` stages of a chain. Raises FormatError where its parts do not fit each other."""
    a = stage.attrs
    count, widths = len(a["activations"]), a["widths"]
    lengths = {len(a[n]) for n in ("activations", "parameters", "scales", "zero_points")} | {len(widths) - 1}
    if len(lengths) != 1 or count < 2 or any(name not in HOMOGENEOUS for name in a["activations"][:-1]):
        raise FormatError(
            "mlp", f"{count} layers, hidden activations {a['activations'][:-1]}",
            f"two layers or more with {', '.join(sorted(HOMOGENEOUS))} between them", "Leave other layers out of it.",
        )  # fmt: skip
    values = [
        Value(f"q{i}", w, "int8", Quant(s, z)) for i, (w, s, z) in enumerate(zip(widths, a["scales"], a["zero_points"]))
    ]
    layers = []
    for i in range(count):
        tensors = {part: stage.tensors[f"{part}_{i}"] for part in PARTS if f"{part}_{i}" in stage.tensors}
        attrs = {"activation": a["activations"][i], "activation_parameter": a["parameters"][i]}
        y = values[i + 1] if i + 1 < count else stage.outputs[0]
        layers.append(Stage("linear", f"{stage.name}.{i}", (values[i],), (y,), tensors, attrs))
    return Stage("quantize", stage.name, stage.inputs, (values[0],)), tuple(layers)


def lower(stage: Stage) -> Mapping[str, Any]:
    """Of each layer, what linear's `lower` gives."""
    source, layers = split(stage)
    return {**quantize.lower(source), "layers": [linear.lower(layer) for layer in layers]}


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    source, layers = split(stage)
    (t,) = quantize.reference(source, x)
    for layer in layers:
        (t,) = linear.reference(layer, t)
    return (torch.where(torch.isfinite(x).all(-1, keepdim=True), t, torch.full_like(t, float("nan"))),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    source, layers = split(stage)
    (t,) = quantize.reference(source, x)
    for layer in layers[:-1]:
        (t,) = linear.reference(layer, t)
    return linear.tolerance(layers[-1], t)


def cost(problem: Problem) -> Cost:
    widths, m = problem.attrs["widths"], problem.matrix_rows
    weights = sum(n * k for k, n in pairwise(widths))
    return Cost(bytes=weights + 8 * sum(widths[1:]) + 4 * m * (widths[0] + widths[-1]), flops=2 * m * weights)


def make_stage(widths: Sequence[int], activations: Sequence[str], parameter: float = 0.0, seed: int = 0) -> Stage:
    """A stage with random weights; one activation per layer."""
    g = torch.Generator().manual_seed(seed)
    source = Stage("quantize", "case", (Value("x", widths[0]),), (Value("q", widths[0], "int8", Quant(0.02, 3)),))
    layers, x = [], source.outputs[0]
    for i, (k, n, act) in enumerate(zip(widths, widths[1:], activations)):
        last = i == len(widths) - 2
        y = Value(f"h{i}", n) if last else Value(f"h{i}", n, "int8", Quant(0.031, -128 if act == "relu" else -7))
        tensors = {
            "weight": torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8),
            "weight_scale": torch.rand(n, generator=g) * 0.02 / k**0.5 + 1e-6,
            "bias": torch.randn(n, generator=g) * 0.3,
        }
        layers.append(
            Stage("linear", f"case.{i}", (x,), (y,), tensors, {"activation": act, "activation_parameter": parameter})
        )
        x = y
    return join("case", source, layers)


def cases() -> Iterator[Case]:
    def case(rows: int, widths: tuple[int, ...], acts: tuple[str, ...], special: bool = False) -> Case:
        stage = make_stage(widths, acts, 0.1)

        def make(seed: int) -> tuple[Tensor, ...]:
            x = torch.randn(rows, widths[0], generator=torch.Generator().manual_seed(seed)) * 2
            if special:
                x[0, 0], x[1, -1] = float("nan"), float("inf")
            return (x,)

        shape = "-".join(map(str, widths))
        return Case(f"M{rows}-{shape}-{'-'.join(acts)}{'-special' if special else ''}", stage, make)

    yield case(1, (1, 1, 1), ("none", "none"))
    yield case(1, (16, 16, 16), ("relu", "none"))
    yield case(3, (13, 21, 5), ("relu", "sigmoid"))
    yield case(2, (33, 40, 17, 9), ("leaky_relu", "relu", "none"))
    yield case(3, (20, 8, 30, 64, 3), ("relu", "relu", "none", "gelu"), special=True)
    yield case(1, (100, 128, 8, 128, 100), ("relu", "relu", "relu", "none"))


OPERATOR = register_operator(
    Operator(
        name="mlp",
        axes={"x": ("M", "K"), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
    )
)
