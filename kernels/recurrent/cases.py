"""Conformance cases of recurrent operators: random stages of odd sizes, in every format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.formats import int4, int8
from rtaccel.kernels.recurrent.layout import H_SCALE, SIZES, Geometry
from rtaccel.kernels.recurrent.lengths import until

GROUP_SIZE = 32


def make_stage(
    op: str,
    gates: int,
    geometry: Geometry,
    k: int,
    form: str = "float32",
    out: str = "float32",
    states: bool | str = True,
    bias: bool = True,
    seed: int = 0,
    density: float | None = None,
    lengths: bool = False,
) -> Stage:
    """A stage with random weights. form: "float32", or the weights and how x comes: "int8-static",
    "int8-dynamic", "int8-own" (float32, quantized with a static scale), and the same with "int4". density: of the weights
    that are not zero, in a sparse stage; matrices take turns in being unstructured, in blocks, and dense. lengths: streams say
    how many time steps they have. states: whether they come in and go out; "after": they go out alone."""
    g = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer, _, suffix in geometry.suffixes():
        for which, inputs in (("ih", geometry.width(layer, k)), ("hh", geometry.hidden)):
            weight = (torch.rand(gates * geometry.hidden, inputs, generator=g) * 2 - 1) / geometry.hidden**0.5
            name = f"weight_{which}{suffix}"
            if density is not None:
                weight *= _mask(weight, density, len(tensors), g)
            tensors[name] = weight
            if form.startswith("int8"):
                tensors[name], tensors[f"{name}_scale"] = int8.quantize_weight(weight, op)
            elif form.startswith("int4"):
                tensors[name], tensors[f"{name}_group_scale"] = int4.quantize_weight(weight, GROUP_SIZE, op)
            if bias:
                tensors[f"bias_{which}{suffix}"] = torch.randn(gates * geometry.hidden, generator=g) * 0.3
    steps = geometry.time * geometry.batch
    quant = QParams(0.021, int(torch.randint(-100, 100, (1,), generator=g)))
    x = Value("x", k, "int8", quant, steps) if form.endswith("static") else Value("x", k, steps=steps)
    y = Value(
        "y",
        geometry.directions * geometry.hidden,
        out,
        QParams(0.0081, 5) if out == "int8" else None,
        geometry.batch if geometry.last_only else steps,
    )
    rows = geometry.layers * geometry.directions * geometry.batch
    names = ("h", "c")[: 2 if gates == 4 else 1] if states else ()
    attrs: dict[str, Any] = {name: getattr(geometry, name) for name in SIZES}
    if form != "float32":
        attrs["h_scale"] = H_SCALE
    if form.startswith("int4"):
        attrs["group_size"] = GROUP_SIZE
    if form.endswith("own"):
        attrs |= {"x_scale": quant.scale, "x_zero_point": quant.zero_point}
    if density is not None:
        attrs["layout"] = "sparse"
    return Stage(
        op,
        "case",
        (
            x,
            *([Value("n", 1, "int64", steps=geometry.batch)] if lengths else []),
            *(Value(f"{n}0", geometry.hidden, steps=rows) for n in names if states != "after"),
        ),
        (y, *(Value(f"{n}n", geometry.hidden, steps=rows) for n in names)),
        tensors,
        attrs,
    )


def _mask(weight: Tensor, density: float, turn: int, g: torch.Generator) -> Tensor:
    rows, columns = weight.shape
    if turn % 7 == 3:
        return torch.ones(rows, columns)
    if turn % 2:
        tiles = torch.rand(-(-rows // 16), -(-columns // 16), generator=g) < density
        return tiles.repeat_interleave(16, 0).repeat_interleave(16, 1)[:rows, :columns]
    return torch.rand(rows, columns, generator=g) < density


def make_inputs(stage: Stage, samples: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    made = []
    for value in stage.inputs:
        if value.dtype == "int8":
            made.append(torch.randint(-128, 128, (samples, *value.shape), generator=g, dtype=torch.int8))
        elif value.dtype == "int64":
            made.append(torch.randint(1, int(stage.attrs["time"]) + 1, (samples, *value.shape), generator=g))
        else:
            made.append(torch.rand(samples, *value.shape, generator=g) * 2 - 1)
    return tuple(made)


def behind(stage: Stage) -> Callable[..., None]:
    """Puts NaN where x is not read: behind the last time step of each stream."""
    g = Geometry.of(stage.attrs)

    def put(x: Tensor, lengths: Tensor, *states: Tensor) -> None:
        if x.is_floating_point():
            last = until(lengths.reshape(-1), g.time_steps(x), float("nan"))
            x.copy_(g.rows(last, tuple(x.shape[1:])))

    return put


def cases(op: str, gates: int, quantizes: bool, sparse: bool) -> Iterator[Case]:
    """quantizes: with int8 and int4 weights too. sparse: with weights whose zeros are left out."""

    def case(samples: int, stage: Stage, label: str, propagate_nan: Callable[..., None] | None = None) -> Case:
        def make(seed: int) -> tuple[Tensor, ...]:
            inputs = make_inputs(stage, samples, seed)
            if propagate_nan:
                propagate_nan(*inputs)
            return inputs

        g = Geometry.of(stage.attrs)
        sizes = f"M{samples}-T{g.time}-B{g.batch}-K{stage.inputs[0].width}-H{g.hidden}-L{g.layers}-D{g.directions}"
        return Case(f"{sizes}-{label}", stage, make)

    sizes = (
        (1, 1, Geometry(1)),
        (1, 32, Geometry(64, layers=2)),
        (3, 5, Geometry(17, layers=2)),
        (2, 7, Geometry(19, layers=3, directions=2, time=3, batch=2)),
        (2, 10, Geometry(33, time=5, batch=3, batch_first=1, last_only=1)),
        (1, 9, Geometry(35, layers=2, directions=2, time=37, last_only=1)),
        (13, 65, Geometry(48, time=2)),
        (1, 3, Geometry(16, layers=1, time=35, batch=2)),
    )
    for form in ("float32", *(("int8-static", "int8-dynamic", "int4-static", "int4-dynamic") if quantizes else ())):
        for samples, k, geometry in sizes:
            yield case(samples, make_stage(op, gates, geometry, k, form), form)
        g = Geometry(21, layers=2, time=4)
        yield case(2, make_stage(op, gates, g, 6, form, states=False, bias=False), f"{form}-stateless")
        yield case(2, make_stage(op, gates, g, 6, form, states="after"), f"{form}-states-after")
        if form != "float32":
            yield case(5, make_stage(op, gates, g, 6, form, out="int8"), f"{form}-int8")

    for form in ("float32", "int8-static", "int8-dynamic") if sparse else ():
        for density, (samples, k, geometry) in zip((0.0, 0.2, 0.3, 0.1, 0.15, 0.05, 0.1, 0.4), sizes):
            yield case(samples, make_stage(op, gates, geometry, k, form, density=density), f"{form}-sparse")
        for density, geometry in ((0.06, Geometry(129, time=2)), (0.03, Geometry(64, layers=2))):
            yield case(2, make_stage(op, gates, geometry, 300, form, density=density), f"{form}-sparse")
        if form != "float32":
            stage = make_stage(op, gates, Geometry(40, layers=2, time=4), 33, form, "int8", density=0.1)
            yield case(5, stage, f"{form}-sparse-int8")

    for form in ("float32", *(("int8-static", "int8-dynamic", "int4-own") if quantizes else ())):
        for samples, k, geometry in (
            (2, 2, Geometry(3, time=3)),
            *sizes[3:6],
            sizes[7],
            (33, 6, Geometry(21, layers=2, directions=2, time=4)),
        ):
            stage = make_stage(op, gates, geometry, k, form, states=geometry.batch != 2, lengths=True)
            yield case(samples, stage, f"{form}-lengths", behind(stage))
        if form != "float32":
            stage = make_stage(op, gates, Geometry(21, layers=2, time=4), 6, form, out="int8", lengths=True)
            yield case(5, stage, f"{form}-lengths-int8")
        if sparse and not form.startswith("int4"):
            stage = make_stage(
                op, gates, Geometry(35, layers=2, directions=2, time=6), 40, form, density=0.1, lengths=True
            )
            yield case(5, stage, f"{form}-lengths-sparse", behind(stage))

    def propagate_nan(x: Tensor, *states: Tensor) -> None:
        x[1, 2, 3], states[0][3, 0, 1], states[-1][4, 1, 0] = float("nan"), float("inf"), float("nan")

    for form in ("float32", *(("int8-dynamic", "int8-own", "int4-own") if quantizes else ())):
        stage = make_stage(op, gates, Geometry(21, layers=2, time=4), 6, form)
        yield case(6, stage, f"{form}-special", propagate_nan)
        if sparse and not form.startswith("int4"):
            stage = make_stage(op, gates, Geometry(21, layers=2, time=4), 40, form, density=0.1)
            yield case(6, stage, f"{form}-sparse-special", propagate_nan)
