"""Conformance cases of conv: stages with random weights, small and odd sizes first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels._common import activations

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """A convolution by its sizes; `out_size` is as torch has it where padding is the same on both sides.

    causal: padding on the left only, as much as the kernel reaches back. live: only these output positions. flat: x is
    one row. rows: first row of each output row, and of each row of taps.
    """

    c: int
    n: int
    in_size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    causal: bool = False
    live: tuple[int, ...] = ()
    stream: bool = False
    ticks: bool = False
    flat: bool = False
    rows: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # of outputs and of taps, where no stride gives them

    @property
    def attrs(self) -> dict[str, Any]:
        if self.stream:
            found = {"kernel": self.kernel, "dilation": self.dilation, "groups": self.groups, "stream": 1}
            return {**found, "ticks": 1} if self.ticks else found
        span = tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation))
        padding = span if self.causal else self.padding
        both = padding if self.causal else tuple(2 * p for p in padding)
        out = tuple((h + p - s - 1) // t + 1 for h, p, s, t in zip(self.in_size, both, span, self.stride))
        attrs: dict[str, Any] = {
            "in_size": self.in_size, "kernel": self.kernel, "stride": self.stride, "padding": padding,
            "dilation": self.dilation, "out_size": out, "groups": self.groups,
        }  # fmt: skip
        if self.rows is not None:
            starts, taps = self.rows
            attrs |= {"out_size": (len(starts), out[1]), "out_rows": starts, "tap_rows": taps}
        if self.live:
            attrs |= {"out_steps": self.live, "in_steps": self._read(attrs)}
        return attrs

    def _read(self, attrs: dict[str, Any]) -> tuple[int, ...]:
        (h, w), wo, found = self.in_size, attrs["out_size"][1], set()
        for p in self.live:
            for ty in range(self.kernel[0]):
                for tx in range(self.kernel[1]):
                    y = p // wo * self.stride[0] + ty * self.dilation[0] - attrs["padding"][0]
                    x = p % wo * self.stride[1] + tx * self.dilation[1] - attrs["padding"][1]
                    if 0 <= y < h and 0 <= x < w:
                        found.add(y * w + x)
        return tuple(sorted(found))


def make_stage(
    shape: Shape, scheme: str, activation: str = "none", parameter: float = 0.0, out: str = "float32",
    residual: bool = False, seed: int = 0,
) -> Stage:  # fmt: skip
    """A stage with random weights. scheme: "float32", "static" (int8 x), "self" (float32 x, a static range), "dynamic"."""
    g = torch.Generator().manual_seed(seed)
    attrs = {**shape.attrs, "activation": activation, "activation_parameter": parameter}
    size, per_group = (shape.n, shape.c // shape.groups, *shape.kernel), shape.c // shape.groups
    k = per_group * shape.kernel[0] * shape.kernel[1]
    bias = torch.randn(shape.n, generator=g)
    tensors = {"weight": torch.randn(size, generator=g) / max(k, 1) ** 0.5, "bias": bias}
    int8_x: dict[str, Any] = {
        "dtype": "int8",
        "quant": QParams(0.031, int(torch.randint(-128, 128, (1,), generator=g))),
    }
    if scheme != "float32":
        tensors["weight"] = torch.randint(-127, 128, size, generator=g, dtype=torch.int8)
        tensors["weight_scale"] = torch.rand(shape.n, generator=g) * 0.01 / max(k, 1) ** 0.5 + 1e-6
    if scheme == "self":
        attrs |= {"x_scale": 0.031, "x_zero_point": int8_x["quant"].zero_point}
    rows, positions = 1, 1
    if not shape.stream:
        rows = len(attrs["in_steps"]) if shape.live else shape.in_size[0] * shape.in_size[1]
        positions = len(shape.live) if shape.live else attrs["out_size"][0] * attrs["out_size"][1]
    width, rows = (shape.c * rows, 1) if shape.flat else (shape.c, rows)
    x = Value("x", width, steps=rows, **(int8_x if scheme == "static" else {}))
    y_quant = QParams(0.037, -128 if activation == "relu" else 11) if out == "int8" else None
    inputs, outputs = [x], [Value("y", shape.n, out, y_quant, positions)]
    if shape.stream:
        ring = Value("ring", shape.c, steps=(shape.kernel[1] - 1) * shape.dilation[1] + 1,
                     **({} if scheme == "float32" else int8_x))  # fmt: skip
        inputs.append(ring)
        outputs.append(replace(ring, name="ring_out"))  # in a plan they are one value, a state
        inputs += [Value("tick", 1, "int64")] * shape.ticks
    if residual:
        inputs.append(Value("other", shape.n, steps=positions))
    return Stage("conv", "case", tuple(inputs), tuple(outputs), tensors, attrs)


def make_inputs(stage: Stage, samples: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)

    def random(value: Value) -> Tensor:
        if value.dtype == "int8":
            return torch.randint(-128, 128, (samples, *value.shape), generator=g, dtype=torch.int8)
        if value.dtype == "int64":  # of calls, beyond what int32 holds too
            return torch.randint(0, 1 << 40, (samples, *value.shape), generator=g)
        return torch.randn(samples, *value.shape, generator=g) * 2

    return tuple(random(v) for v in stage.inputs)


SHAPES = {
    "tiny": Shape(1, 1, (1, 1), (1, 1)),
    "causal": Shape(5, 7, (1, 9), (1, 3), causal=True),
    "dilated": Shape(12, 33, (1, 23), (1, 3), dilation=(1, 4), causal=True),
    "strided": Shape(3, 16, (1, 31), (1, 5), stride=(1, 3), padding=(0, 2)),
    "c1": Shape(1, 20, (13, 10), (10, 4), stride=(2, 2), padding=(4, 1)),
    "image": Shape(6, 10, (7, 9), (3, 3), padding=(1, 1)),
    "image-odd": Shape(17, 45, (8, 5), (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 3)),
    "wide": Shape(64, 130, (3, 5), (3, 3), padding=(1, 1)),
    "pointwise": Shape(19, 66, (5, 3), (1, 1)),
    "grouped": Shape(12, 18, (6, 7), (3, 3), padding=(1, 1), groups=3),
    "grouped-wide": Shape(8, 160, (1, 11), (1, 3), groups=2),
    "depthwise": Shape(21, 21, (9, 7), (3, 3), padding=(1, 1), groups=21),
    "depthwise-64": Shape(64, 64, (7, 5), (3, 3), padding=(1, 1), groups=64),
    "depthwise-strided": Shape(70, 70, (9, 8), (5, 2), stride=(2, 3), padding=(3, 1), dilation=(1, 2), groups=70),
    "depthwise-1d": Shape(33, 33, (1, 29), (1, 9), dilation=(1, 2), causal=True, groups=33),
    "narrow-2": Shape(22, 22, (9, 7), (3, 3), padding=(1, 1), groups=11),
    "narrow-4": Shape(84, 84, (9, 8), (5, 2), stride=(2, 3), padding=(3, 1), dilation=(1, 2), groups=21),
    "narrow-8": Shape(40, 40, (1, 29), (1, 9), dilation=(1, 2), causal=True, groups=5),
    "narrow-64": Shape(64, 64, (7, 5), (3, 3), padding=(1, 1), groups=16),
    "narrow-1x1": Shape(32, 32, (1, 13), (1, 1), groups=4),
    "narrow-flat": Shape(12, 12, (1, 16), (1, 3), groups=3, causal=True, flat=True),
    "narrow-deep": Shape(24, 24, (20, 6), (4, 3), padding=(1, 0), groups=12, rows=((0, 5, 12), (0, 2, 5, 7))),
    "narrow-live": Shape(16, 16, (1, 32), (1, 3), dilation=(1, 4), causal=True, groups=2, live=(1, 31)),
    "multiplier": Shape(5, 15, (6, 6), (3, 3), padding=(1, 1), groups=5),
    "multiplier-2": Shape(35, 70, (9, 5), (8, 1), groups=35),
    "multiplier-4": Shape(19, 76, (1, 29), (1, 9), padding=(0, 3), dilation=(1, 2), groups=19),
    "multiplier-8": Shape(3, 24, (5, 5), (3, 3), stride=(2, 1), padding=(1, 1), groups=3),
    "multiplier-flat": Shape(5, 10, (4, 4), (3, 3), padding=(1, 0), groups=5, flat=True),
    "multiplier-live": Shape(20, 40, (1, 32), (1, 3), dilation=(1, 4), causal=True, groups=20, live=(1, 31)),
    "multiplier-deep": Shape(21, 42, (20, 6), (4, 3), padding=(1, 0), groups=21, rows=((0, 5, 12), (0, 2, 5, 7))),
    "rows-7": Shape(16, 16, (5, 7), (7, 7), padding=(3, 3), groups=16),
    "rows-7-odd": Shape(70, 70, (4, 17), (2, 7), padding=(1, 2), groups=70),
    "rows-7-apart": Shape(48, 48, (9, 19), (7, 7), stride=(2, 2), padding=(3, 3), groups=48),
    "rows-5": Shape(64, 64, (6, 9), (5, 5), stride=(2, 1), padding=(2, 2), groups=64),
    "rows-5-apart": Shape(33, 33, (8, 12), (3, 5), stride=(1, 2), padding=(0, 2), groups=33),
    "rows-3": Shape(37, 37, (5, 13), (3, 3), padding=(1, 1), groups=37),
    "rows-3-apart": Shape(80, 80, (7, 9), (2, 3), stride=(1, 2), padding=(1, 1), groups=80),
    "rows-deep": Shape(32, 32, (20, 11), (4, 5), padding=(1, 2), groups=32, rows=((0, 5, 12), (0, 2, 5, 7))),
    "far": Shape(40, 33, (7, 9), (3, 3), padding=(6, 8), dilation=(6, 8)),
    "far-joined": Shape(19, 66, (5, 8), (3, 3), padding=(4, 1), dilation=(4, 1)),
    "flat": Shape(1, 20, (13, 10), (10, 4), stride=(2, 2), padding=(4, 1), flat=True),
    "flat-colors": Shape(3, 17, (8, 8), (3, 3), flat=True),
    "flat-depthwise": Shape(4, 4, (1, 16), (1, 3), groups=4, causal=True, flat=True),
    "deep": Shape(9, 20, (24, 5), (4, 3), padding=(0, 1), rows=((0, 1, 8, 9, 10), (0, 1, 6, 13))),
    "deep-depthwise": Shape(21, 21, (20, 6), (4, 3), padding=(1, 0), groups=21, rows=((0, 5, 12), (0, 2, 5, 7))),
    "even-16": Shape(7, 15, (1, 73), (1, 5), stride=(1, 2), padding=(0, 2)),
    "even-32": Shape(9, 30, (1, 67), (1, 3), dilation=(1, 4), causal=True),
    "even-8": Shape(6, 8, (1, 29), (1, 4)),
    "even-image": Shape(5, 16, (4, 31), (3, 2), stride=(2, 1)),
    "even-grouped": Shape(6, 20, (3, 27), (2, 3), padding=(0, 1), groups=2),
    "live": Shape(11, 24, (1, 32), (1, 3), dilation=(1, 4), causal=True, live=(7, 23, 30, 31)),
    "live-image": Shape(4, 6, (6, 6), (3, 3), padding=(1, 1), live=(0, 8, 35)),
    "live-depthwise": Shape(20, 20, (1, 32), (1, 3), dilation=(1, 4), causal=True, groups=20, live=(1, 31)),
}
WINOGRAD = {
    "tiny": Shape(1, 1, (3, 3), (3, 3)),
    "odd": Shape(19, 37, (7, 9), (3, 3), padding=(1, 1)),
    "one-sided": Shape(5, 67, (6, 5), (3, 3), padding=(2, 2), causal=True),
    "wide": Shape(33, 130, (13, 11), (3, 3), padding=(2, 0)),
    "flat": Shape(6, 20, (9, 6), (3, 3), padding=(1, 1), flat=True),
    "row": Shape(16, 48, (1, 30), (3, 3), padding=(1, 1)),
    "apart": Shape(17, 34, (9, 14), (3, 3), padding=(2, 3), dilation=(2, 3)),
    "far-apart": Shape(6, 20, (7, 12), (3, 3), padding=(6, 5), dilation=(6, 5)),
    "signal": Shape(19, 37, (1, 41), (1, 3), padding=(0, 1)),
    "signal-apart": Shape(33, 18, (1, 50), (1, 3), padding=(0, 8), dilation=(1, 4)),
    "signal-causal": Shape(16, 67, (1, 23), (1, 3), dilation=(1, 2), causal=True),
    "signal-short": Shape(6, 20, (1, 3), (1, 3)),
    "lines": Shape(17, 33, (5, 9), (1, 3), padding=(0, 1)),
    "lines-down": Shape(20, 16, (11, 7), (3, 1), padding=(1, 0)),
    "lines-down-apart": Shape(5, 130, (13, 3), (3, 1), padding=(2, 0), dilation=(3, 1)),
}
WINOGRAD_INT8 = {
    "even": Shape(16, 16, (6, 6), (3, 3), padding=(1, 1)),
    "odd": Shape(19, 37, (7, 9), (3, 3), padding=(1, 1)),
    "one-sided": Shape(31, 67, (6, 7), (3, 3), padding=(2, 2), causal=True),
    "wide": Shape(33, 150, (13, 11), (3, 3), padding=(2, 0)),
    "blocks": Shape(130, 72, (19, 17), (3, 3)),
    "apart": Shape(17, 34, (12, 13), (3, 3), padding=(2, 3), dilation=(2, 3)),
    "signal": Shape(48, 48, (1, 36), (1, 3), padding=(0, 1)),
    "signal-causal": Shape(67, 150, (1, 61), (1, 3), padding=(0, 2), causal=True),
    "signal-apart": Shape(50, 81, (1, 45), (1, 3), dilation=(1, 4), padding=(0, 4)),
    "across": Shape(49, 52, (7, 13), (1, 3)),
    "down": Shape(130, 72, (15, 5), (3, 1), padding=(1, 0)),
}
"""Channels and positions from which kernels take it for int8."""
TILES = {
    "even": Shape(64, 64, (8, 8), (3, 3), padding=(1, 1)),
    "odd": Shape(35, 45, (9, 11), (3, 3), padding=(1, 1)),
    "strided": Shape(48, 80, (17, 33), (3, 3), stride=(2, 2), padding=(1, 1)),
    "strided-across": Shape(64, 37, (7, 7), (3, 3), stride=(2, 2), padding=(1, 1)),
    "one-stride": Shape(33, 64, (7, 39), (2, 3), stride=(1, 2), padding=(0, 2)),
    "in-place": Shape(64, 72, (8, 9), (3, 3)),
    "in-place-strided": Shape(64, 48, (5, 35), (1, 1), stride=(1, 2)),
    "pointwise": Shape(64, 40, (5, 7), (1, 1)),
    "pointwise-odd": Shape(75, 97, (6, 6), (1, 1)),
    "signal": Shape(40, 66, (1, 50), (1, 5), dilation=(1, 2), causal=True),
    "signal-joined": Shape(24, 33, (1, 70), (1, 7), padding=(0, 3)),
    "few": Shape(128, 128, (2, 3), (3, 3), padding=(1, 1)),
    "flat": Shape(32, 32, (8, 8), (3, 3), padding=(1, 1), flat=True),
}
"""int8, of enough products for tile registers: whole tiles of 16 positions and of 64 bytes, and parts of them."""
LONG = {
    "joined": Shape(135, 70, (1, 29), (1, 31), padding=(0, 15)),
    "dilated": Shape(135, 66, (1, 29), (1, 31), padding=(0, 30), dilation=(1, 2)),
    "chunks": Shape(257, 33, (1, 400), (1, 17), padding=(0, 8)),
    "far": Shape(520, 70, (14, 9), (3, 3), padding=(12, 7), dilation=(12, 7)),
}
"""Weights of one tile that do not stay in a second-level cache: more than 4096 products for one output."""
STREAMS = {
    "stream": Shape(9, 13, (1, 1), (1, 3), dilation=(1, 2), stream=True),
    "stream-48": Shape(48, 48, (1, 1), (1, 3), dilation=(1, 8), stream=True),
    "stream-narrow": Shape(36, 36, (1, 1), (1, 4), dilation=(1, 3), groups=9, stream=True),
    "stream-depthwise": Shape(37, 37, (1, 1), (1, 4), dilation=(1, 3), groups=37, stream=True),
}
TICKS = {name.replace("stream", "ticks"): replace(shape, ticks=True) for name, shape in STREAMS.items()}
TICKS["ticks-alone"] = Shape(5, 70, (1, 1), (1, 1), stream=True, ticks=True)
"""Streams that are told the number of their call."""


def _case(label: str, samples: int, stage: Stage) -> Case:
    return Case(label, stage, lambda seed: make_inputs(stage, samples, seed))


PLANES = {
    "one": Shape(1, 1, (13, 21), (3, 3), padding=(1, 1)),
    "narrow": Shape(1, 1, (9, 5), (3, 3), padding=(1, 1)),
    "inside": Shape(1, 2, (5, 70), (3, 4)),
    "wide": Shape(2, 3, (3, 150), (2, 3), padding=(0, 1), dilation=(1, 2)),
    "row": Shape(1, 1, (1, 333), (1, 33), padding=(0, 16)),
    "signals": Shape(8, 1, (1, 203), (1, 9), padding=(0, 4)),
    "colors": Shape(3, 4, (11, 19), (3, 3), stride=(2, 2), padding=(1, 1)),
    "thirds": Shape(2, 2, (7, 67), (2, 5), stride=(1, 3), dilation=(2, 2), padding=(1, 3)),
    "quarters": Shape(1, 3, (4, 90), (2, 3), stride=(3, 4)),
    "fifths": Shape(1, 4, (1, 101), (1, 7), stride=(1, 5), padding=(0, 3)),
    "to-one": Shape(19, 1, (6, 27), (3, 3), padding=(1, 1)),
    "depthwise": Shape(3, 3, (9, 33), (3, 3), padding=(1, 1), groups=3),
    "grouped": Shape(4, 2, (5, 18), (3, 3), padding=(1, 1), groups=2),
    "eight": Shape(3, 8, (12, 21), (3, 3), stride=(2, 2), padding=(1, 1)),
    "depthwise-eight": Shape(7, 7, (5, 34), (3, 3), padding=(1, 1), groups=7),
    "many": Shape(70, 2, (4, 9), (3, 3), padding=(1, 1)),
    "slices": Shape(1, 1, (24, 17), (4, 3), padding=(0, 1), rows=((0, 1, 8, 9, 10), (0, 1, 6, 13))),
}
"""Of few outputs. "many": more products than float32 sums hold."""
FIRST = {
    "first": Shape(3, 16, (13, 15), (3, 3), stride=(2, 2), padding=(1, 1)),
    "first-inside": Shape(3, 21, (9, 32), (3, 3)),
    "first-dilated": Shape(2, 9, (9, 11), (3, 2), padding=(1, 2), dilation=(2, 3)),
    "first-grouped": Shape(4, 10, (5, 12), (3, 3), padding=(1, 1), groups=2),
    "first-narrow": Shape(8, 8, (5, 12), (3, 3), padding=(1, 1), groups=2),
    "first-signal": Shape(8, 20, (1, 65), (1, 7), stride=(1, 2), padding=(0, 3)),
}
"""Planes to rows of channels."""


def _over(stage: Stage, x: bool, y: bool, rows: bool) -> Stage:
    """The stage over planes. rows: each row of an image is one of the value, else the value is one row."""
    a = stage.attrs

    def planes(value: Value, size: Pair) -> Value:
        total = value.steps * value.width
        return replace(value, width=size[1] if rows else total, steps=total // size[1] if rows else 1)

    others = [planes(v, a["out_size"]) if y else v for v in stage.inputs[1:]]
    inputs = (planes(stage.inputs[0], a["in_size"]) if x else stage.inputs[0], *others)
    outputs = (planes(stage.outputs[0], a["out_size"]) if y else stage.outputs[0],)
    return replace(stage, inputs=inputs, outputs=outputs, attrs={**a, "x_planes": int(x), "y_planes": int(y)})


def _plane_cases() -> Iterator[Case]:
    for index, (name, shape) in enumerate((PLANES | FIRST).items()):
        few = name in PLANES
        for number, (scheme, act, out) in enumerate((
            ("float32", "none", "float32"), ("float32", "relu", "float32"), ("float32", "gelu", "float32"),
            ("static", "relu", "int8"), ("static", "none", "float32"), ("self", "none", "int8"),
            ("dynamic", "leaky_relu", "float32"), ("self", "tanh", "float32"),
        )):  # fmt: skip
            residual = number % 2 == 1 if not few else number in (1, 2, 5, 6)
            stage = make_stage(shape, scheme, act, 0.1, out, residual, seed=5 * index + number)
            x = not few or number % 3 != 1
            yield _case(f"planes-{name}-{scheme}-{act}-{out}", 1 + index % 3, _over(stage, x, few, number % 2 == 0))


def cases() -> Iterator[Case]:
    for index, (name, shape) in enumerate(SHAPES.items()):
        samples = 1 + index % 3
        for number, (scheme, act, out, residual) in enumerate((
            ("float32", "none", "float32", False), ("float32", "relu", "float32", True),
            ("static", "relu", "int8", False), ("static", "none", "int8", False), ("static", "none", "float32", True),
            ("self", "relu", "int8", True), ("dynamic", "none", "float32", False), ("dynamic", "relu", "float32", True),
        )):  # fmt: skip
            stage = make_stage(shape, scheme, act, 0.0, out, residual, seed=10 * index + number)
            yield _case(f"{name}-{scheme}-{act}-{out}{'-residual' if residual else ''}", samples, stage)
    for index, (name, shape) in enumerate(WINOGRAD.items()):
        for number, (act, residual) in enumerate((("none", False), ("relu", True), ("gelu", False))):
            for tile in (2, 4):
                stage = make_stage(shape, "float32", act, 0.0, "float32", residual, seed=7 * index + number)
                stage = replace(stage, attrs={**stage.attrs, "winograd": tile})
                yield _case(f"winograd-{name}-{tile}-{act}", (1, 2, 5)[number], stage)
    for index, (name, shape) in enumerate(WINOGRAD_INT8.items()):
        for number, (act, out, residual) in enumerate((
            ("relu", "int8", False), ("none", "int8", False), ("none", "float32", True), ("leaky_relu", "int8", True),
        )):  # fmt: skip
            stage = make_stage(shape, "static", act, 0.1, out, residual, seed=9 * index + number)
            yield _case(f"winograd-{name}-int8-{act}-{out}", (1, 2, 3, 1)[number], stage)
    for index, (name, shape) in enumerate(TILES.items()):
        for number, (scheme, act, out, residual) in enumerate((
            ("static", "relu", "int8", False), ("static", "none", "float32", True), ("self", "leaky_relu", "int8", True),
            ("dynamic", "relu", "float32", False),
        )):  # fmt: skip
            stage = make_stage(shape, scheme, act, 0.1, out, residual, seed=8 * index + number)
            yield _case(f"tiles-{name}-{scheme}-{act}-{out}", (1, 2, 3, 2)[number], stage)
    for name, shape in LONG.items():
        yield _case(f"long-{name}", 2, make_stage(shape, "float32", "relu", 0.0, "float32", True))
    yield from _plane_cases()
    for act, parameter in activations.beyond_relu():
        for scheme, out in (("float32", "float32"), ("static", "int8"), ("dynamic", "float32")):
            for name in ("causal", "depthwise"):
                stage = make_stage(SHAPES[name], scheme, act, parameter, out)
                yield _case(f"{name}-{scheme}-{act}-{out}", 2, stage)
    for name, shape in (STREAMS | TICKS).items():
        for scheme, act, out, residual in (
            ("float32", "relu", "float32", False), ("static", "relu", "int8", False), ("self", "gelu", "float32", True),
        ):  # fmt: skip
            yield _case(f"{name}-{scheme}", 2, make_stage(shape, scheme, act, 0.0, out, residual))

    for scheme in ("self", "dynamic"):
        stage = make_stage(SHAPES["image"], scheme)

        def special(seed: int, stage: Stage = stage, scheme: str = scheme) -> tuple[Tensor, ...]:
            (x,) = make_inputs(stage, 5, seed)
            x[1] = 0.0
            x[4] *= 1e-38
            if scheme == "dynamic":  # what a marked sample becomes is the plan's to say
                x[2, 3, 1], x[3, 0, 0] = float("nan"), float("-inf")
            return (x,)

        yield Case(f"special-{scheme}", stage, special)
