"""MLP: a chain of W8A8 or W4A8 linear layers with static scales, from float32 x to float32 y; one launch, or none at all.

    q_0 = quantize(x), q_i = linear_i(q_(i-1)) in int8, y = linear_L(q_(L-1)) in float32

Each step is that of `quantize` and `linear`, to the bit. x [M, K], weight_i [N_i, K_i] int8, weight_scale_i [N_i],
bias_i [N_i], i from 0; attrs "activations" and "parameters" of each layer, "scales" and "zero_points" of each layer's int8
input. The hidden activations are none, relu or leaky_relu, which are exact, so that a chain is exact up to its last.

int4: weight_i uint8 and group_scale_i as rtaccel.formats.int4 has them, attr "group_size", one for all layers. What `linear`
leaves open is fixed here as the CPU's kernels have it, so that a chain is exact with int4 too:

    acc = 0;  for each group g, in order:  acc = fma(float32(D_g), group_scale[n, g], acc),  D_g exact, int32
    t = acc * multiplier[n] + offset[n]      two roundings

A row of x that holds a NaN or an infinity gives NaN; others are untouched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow
from rtaccel.core.traits import Persistent, Weights
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.formats.int8 import to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels._common.activations import HOMOGENEOUS
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.quantize import contract as quantize
from rtaccel.kernels.recurrent.reference import fma32

PARTS = ("weight", "weight_scale", "group_scale", "bias")


def int4_layer(layer: Stage) -> bool:
    return layer.weight_format is WeightFormat.INT4


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
    groups = {layer.attrs.get("group_size") if int4_layer(layer) else None for layer in layers}
    if len(groups) > 1:
        raise FormatError("mlp", f"layers with groups of {groups}", "one format for all", "Leave the others out of it.")
    if groups != {None}:
        attrs["group_size"] = groups.pop()
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
        Value(f"q{i}", w, "int8", QParams(s, z))
        for i, (w, s, z) in enumerate(zip(widths, a["scales"], a["zero_points"]))
    ]
    layers = []
    for i in range(count):
        tensors = {part: stage.tensors[f"{part}_{i}"] for part in PARTS if f"{part}_{i}" in stage.tensors}
        attrs = {"activation": a["activations"][i], "activation_parameter": a["parameters"][i]}
        if "group_size" in a:
            attrs["group_size"] = a["group_size"]
        y = values[i + 1] if i + 1 < count else stage.outputs[0]
        layers.append(Stage("linear", f"{stage.name}.{i}", (values[i],), (y,), tensors, attrs))
    return Stage("quantize", stage.name, stage.inputs, (values[0],)), tuple(layers)


def lower(stage: Stage) -> Mapping[str, Any]:
    """Of each layer, what linear's `lower` gives, and "x_width", its inputs."""
    source, layers = split(stage)
    lowered = [{**linear.lower(layer), "x_width": layer.inputs[0].width} for layer in layers]
    return {**quantize.lower(source), "layers": lowered}


def in_order(layer: Stage) -> Callable[[Tensor], Tensor]:
    """int8 x [M, K] -> float32 [M, N] of a layer of int4 weights before its activation, the groups added in order."""
    low, k, size = linear.lower(layer), layer.inputs[0].width, int(layer.attrs["group_size"])
    weights = [part.T for part in int4.unpack(low["weight"], k).double().split(size, 1)]
    scales = low["group_scale"].unbind(1)

    def call(x: Tensor) -> Tensor:
        acc = torch.zeros(x.shape[0], layer.outputs[0].width, device=x.device)
        for q, weight, scale in zip(x.double().split(size, 1), weights, scales):
            acc = fma32((q @ weight).float(), scale.expand_as(acc), acc)
        return acc * low["multiplier"] + low["offset"]

    return call


def int4_call(layer: Stage) -> Callable[[Tensor], Tensor]:
    """A layer of int4 weights in plain torch, to the bit but for what its activation's own formula leaves open."""
    low, before = linear.lower(layer), in_order(layer)

    def call(x: Tensor) -> Tensor:
        a = activations.apply(low["activation"], before(x), low["activation_parameter"])
        return to_int8(a, low["y_inv_scale"], low["y_zero_point"]) if layer.outputs[0].dtype == "int8" else a

    return call


def _run(layer: Stage, x: Tensor) -> Tensor:
    return int4_call(layer)(x) if int4_layer(layer) else linear.reference(layer, x)[0]


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    source, layers = split(stage)
    (t,) = quantize.reference(source, x)
    for layer in layers:
        t = _run(layer, t)
    return (torch.where(torch.isfinite(x).all(-1, keepdim=True), t, torch.full_like(t, float("nan"))),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    source, layers = split(stage)
    (t,) = quantize.reference(source, x)
    for layer in layers[:-1]:
        t = _run(layer, t)
    last = layers[-1]
    if int4_layer(last):
        return Tolerance(atol=activations.error(str(last.attrs.get("activation", "none")), in_order(last)(t)))
    return linear.tolerance(last, t)


def cost(problem: Problem) -> Cost:
    widths, m = problem.attrs["widths"], problem.matrix_rows
    weights, group = sum(n * k for k, n in pairwise(widths)), problem.attrs.get("group_size")
    stored = weights
    if group is not None:
        stored = sum(n * (-(-k // 2) + 2 * -(-k // int(group))) for k, n in pairwise(widths))
    return Cost(bytes=stored + 8 * sum(widths[1:]) + 4 * m * (widths[0] + widths[-1]), flops=2 * m * weights)


def make_stage(
    widths: Sequence[int], acts: Sequence[str], parameter: float = 0.0, seed: int = 0, group_size: int = 0
) -> Stage:
    """A stage with random weights; one activation per layer. group_size: of int4 weights, 0 for int8 ones."""
    g = torch.Generator().manual_seed(seed)
    source = Stage("quantize", "case", (Value("x", widths[0]),), (Value("q", widths[0], "int8", QParams(0.02, 3)),))
    layers, x = [], source.outputs[0]
    for i, (k, n, act) in enumerate(zip(widths, widths[1:], acts)):
        last = i == len(widths) - 2
        y = Value(f"h{i}", n) if last else Value(f"h{i}", n, "int8", QParams(0.031, -128 if act == "relu" else -7))
        tensors, attrs = (
            {"bias": torch.randn(n, generator=g) * 0.3},
            {"activation": act, "activation_parameter": parameter},
        )
        if group_size:
            scale = torch.randn(n, int4.group_count(k, group_size), generator=g) * 0.2 / k**0.5
            tensors["weight"] = int4.pack(torch.randint(-8, 8, (n, k), generator=g, dtype=torch.int8))
            tensors["group_scale"] = (scale + scale.sign() * 1e-3).bfloat16().float()
            attrs["group_size"] = group_size
        else:
            tensors["weight"] = torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8)
            tensors["weight_scale"] = torch.rand(n, generator=g) * 0.02 / k**0.5 + 1e-6
        layers.append(Stage("linear", f"case.{i}", (x,), (y,), tensors, attrs))
        x = y
    return join("case", source, layers)


def cases() -> Iterator[Case]:
    def case(
        rows: int, widths: tuple[int, ...], acts: tuple[str, ...], special: bool = False, group_size: int = 0
    ) -> Case:
        stage = make_stage(widths, acts, 0.1, group_size=group_size)

        def make(seed: int) -> tuple[Tensor, ...]:
            x = torch.randn(rows, widths[0], generator=torch.Generator().manual_seed(seed)) * 2
            if special:
                x[0, 0], x[1, -1] = float("nan"), float("inf")
            return (x,)

        shape = "-".join(map(str, widths))
        kind = f"-int4-g{group_size}" if group_size else ""
        return Case(f"M{rows}-{shape}-{'-'.join(acts)}{kind}{'-special' if special else ''}", stage, make)

    yield case(1, (1, 1, 1), ("none", "none"))
    yield case(1, (16, 16, 16), ("relu", "none"))
    yield case(3, (13, 21, 5), ("relu", "sigmoid"))
    yield case(2, (33, 40, 17, 9), ("leaky_relu", "relu", "none"))
    yield case(3, (20, 8, 30, 64, 3), ("relu", "relu", "none", "gelu"), special=True)
    yield case(1, (100, 128, 8, 128, 100), ("relu", "relu", "relu", "none"))
    yield case(1, (200, 300, 21), ("relu", "none"))
    yield case(1, (1, 1, 1), ("none", "none"), group_size=16)
    yield case(3, (13, 21, 5), ("relu", "sigmoid"), group_size=32)
    yield case(2, (70, 150, 33, 9), ("leaky_relu", "relu", "none"), special=True, group_size=32)
    yield case(1, (200, 140, 7), ("relu", "none"), group_size=64)
    yield case(1, (129, 24, 130), ("relu", "none"), group_size=128)
    yield case(2, (40, 17, 6), ("relu", "none"), group_size=48)


def _weights(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    return [name for name in tensors if re.fullmatch(r"weight_\d+", name)]


OPERATOR = register_operator(
    Operator(
        name="mlp",
        axes={"x": ("M", "K"), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        weights=Weights(_weights, inside="static"),
        int8=Int8Flow(hands_on=lambda stage: True),
        persistent=Persistent.CHAIN,
    )
)
