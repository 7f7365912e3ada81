"""Put: y = x, and then y[base(line) + sum over k of index_k[line] * stride_k + step(i)] is joined with src[line, i].

attrs["mode"]: "set", "add", "prod", "amax" or "amin"; one line after the other, in order, so that the last one stands.
attrs["dims"], attrs["kept"]: sizes of src; the first `kept` are lines. attrs["places"]: of y where an index of 0 leads, of each
index, and of src: offset and strides in elements of a dense value. attrs["whole"]: (dims, place of x, place of y), which covers
y. attrs["sizes"], attrs["strides"]: of each index. attrs["negative"]: 1 where negative indices count from the end.

Operands: x, i0, i1, ..., src; a constant one is a tensor of that name. x, src and y are all float32 or int64, indices int64.
An index outside is a FormatError; nothing that the call computed is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common import indexed, lines
from rtaccel.kernels._common.strides import elements

MODES = ("set", "add", "prod", "amax", "amin")


def geometry(stage: Stage) -> tuple[list[str], dict[str, lines.Place], dict[str, tuple[int, int, str]]]:
    """(names of operands, places of y, indices and src, sizes). Raises a typed error where they do not fit."""
    found, y = indexed.names(stage, ("src",)), stage.outputs[0]
    sizes = indexed.widths(stage, found)
    places = dict(zip(["y", *found[1:]], (tuple(p) for p in stage.attrs["places"])))
    size = y.steps * y.width
    indexed.check(stage, places, sizes, "y", size)
    dims, source, target = (tuple(p) for p in stage.attrs["whole"])
    lines.check_place("put", dims, source, sizes["x"][0])
    lines.check_place("put", dims, target, size)
    if stage.attrs["mode"] not in MODES or not sizes["x"][2] == sizes["src"][2] == y.dtype:
        raise FormatError("put", f"{stage.attrs['mode']!r} of {sizes['src'][2]} into {sizes['x'][2]}",
                          f"one of {', '.join(MODES)}, one dtype", "Correct the stage.")  # fmt: skip
    if prod(dims) != size or len(stage.attrs["places"]) != len(found):
        raise ShapeError("put", f"{dims}", f"{size} elements", "Correct the stage.")
    return found, places, sizes


def lower(stage: Stage) -> Mapping[str, Any]:
    _, places, sizes = geometry(stage)
    dims, kept, width = tuple(stage.attrs["dims"]), stage.attrs["kept"], stage.outputs[0].width
    whole, source, target = (tuple(p) for p in stage.attrs["whole"])
    return {
        **indexed.lowered(stage, places, sizes, "y"), "mode": stage.attrs["mode"],
        "whole_count": prod(whole[:-1]), "whole_along": whole[-1],
        **lines.tables("_x", whole, len(whole) - 1, source, sizes["x"][1]),
        **lines.tables("_y", whole, len(whole) - 1, target, width),
        **lines.tables("_src", dims, kept, places["src"], sizes["src"][1]),
    }  # fmt: skip


def _joined(stage: Stage, inputs: tuple[Tensor, ...], dtype: torch.dtype, size: bool = False) -> Tensor:
    """size: of absolute values, for a bound."""
    found, places, _ = geometry(stage)
    operands = indexed.given(stage, found, inputs)
    m, dims, kept = inputs[0].shape[0], stage.attrs["dims"], stage.attrs["kept"]
    base = torch.from_numpy(elements(dims, places["y"])).reshape(prod(dims[:kept]), -1).to(inputs[0].device)
    at = (indexed.selected(stage, operands, places)[:, :, None] + base).reshape(-1, prod(dims)).expand(m, -1)
    x, src = (operands[n].to(dtype).abs() if size else operands[n].to(dtype) for n in ("x", "src"))
    src = src[:, torch.from_numpy(elements(dims, places["src"])).to(src.device)].expand(m, -1)
    whole, source, target = stage.attrs["whole"]
    y = torch.zeros(m, prod(whole), dtype=dtype, device=x.device)
    y[:, torch.from_numpy(elements(whole, target)).to(x.device)] = x[
        :, torch.from_numpy(elements(whole, source)).to(x.device)
    ]
    if stage.attrs["mode"] == "set":
        for sample in range(m):  # in order: the last one stands
            last = {int(e): i for i, e in enumerate(at[sample].tolist())}
            y[sample, list(last)] = src[sample, list(last.values())]
        return y
    reduce = {"add": "sum", "prod": "prod", "amax": "amax", "amin": "amin"}[stage.attrs["mode"]]
    return y.scatter_reduce(1, at, src, reduce)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    dtype = torch.int64 if stage.outputs[0].dtype == "int64" else torch.float64
    y = _joined(stage, inputs, dtype)
    return ((y if dtype == torch.int64 else y.float()).reshape(inputs[0].shape[0], *stage.outputs[0].shape),)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """A rounding for each element that may be joined into one: of a sum, of at most the sum of sizes; of a product, of it."""
    if stage.outputs[0].dtype == "int64" or stage.attrs["mode"] not in ("add", "prod"):
        return Tolerance()
    bound = _joined(stage, inputs, torch.float64, size=True).nan_to_num(0.0, 0.0, 0.0)
    n = prod(stage.attrs["dims"])
    return Tolerance(
        atol=(torch.finfo(torch.float32).eps * (n + 1) * bound + 1e-37).reshape(-1, *stage.outputs[0].shape)
    )


def make_stage(shapes: list[tuple[int, int]], mode: str, dtype: str = "float32", **attrs: Any) -> Stage:
    """shapes: (steps, width) of x, of each index, of src."""
    kinds = [dtype, *["int64"] * len(attrs["sizes"]), dtype]
    inputs = tuple(Value(f"x{i}", w, kind, steps=s) for i, ((s, w), kind) in enumerate(zip(shapes, kinds)))
    rows, columns = shapes[0]
    whole = ((rows * columns,), (0, 1), (0, 1))
    attrs = {"mode": mode, "negative": 0, "whole": whole, **attrs}
    return Stage("put", "case", inputs, (Value("y", columns, dtype, steps=rows),), {}, attrs)


def rows_stage(mode: str, rows: int, columns: int, lines: int, dtype: str = "float32") -> Stage:
    """x [rows, columns]; each of the lines of src [lines, columns] goes to the row that its index says."""
    return make_stage([(rows, columns), (1, lines), (lines, columns)], mode, dtype, dims=(lines, columns), kept=1,
                      sizes=(rows,), strides=(columns,), places=((0, 0, 1), (0, 1, 0), (0, columns, 1)))  # fmt: skip


def _case(label: str, stage: Stage) -> Case:
    attrs, dtype = stage.attrs, stage.outputs[0].dtype

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        found = []
        for i, v in enumerate(stage.inputs):
            if 0 < i <= len(attrs["sizes"]):
                size = attrs["sizes"][i - 1]
                found.append(torch.randint(-size if attrs["negative"] else 0, size, (3, *v.shape), generator=g))
            elif dtype == "int64":
                found.append(torch.randint(-9, 9, (3, *v.shape), generator=g))
            else:
                found.append(torch.randn(3, *v.shape, generator=g))
        return tuple(found)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for mode in MODES:
        for dtype in ("float32", "int64"):
            for h, c, k in ((1, 1, 1), (5, 3, 4), (6, 17, 9), (3, 70, 4)):
                tag = f"{mode}-{dtype}-{h}x{c}-{k}"
                yield _case(f"rows-{tag}", rows_stage(mode, h, c, k, dtype))
                elements_stage = make_stage([(h, c), (k, c), (k, c)], mode, dtype, dims=(k, c), kept=2, sizes=(h,), strides=(c,),
                                            places=((0, 0, 1), (0, c, 1), (0, c, 1)), negative=1)  # fmt: skip
                yield _case(f"elements-{tag}", elements_stage)
    yield _case("turned", make_stage([(4, 6), (1, 5), (6, 5)], "add", dims=(5, 6), kept=1, sizes=(4,), strides=(6,),
                                     places=((0, 0, 1), (0, 1, 0), (0, 1, 5))))  # fmt: skip
    yield _case("pairs", make_stage([(4, 6), (1, 5), (1, 5), (1, 5)], "set", dims=(5,), kept=1, sizes=(4, 6), strides=(6, 1),
                                    places=((0, 0), (0, 1), (0, 1), (0, 1))))  # fmt: skip
    for mode in ("set", "add"):  # windows of three rows that overlap: strides do not tell which line reached a row
        yield _case(f"overlapping-{mode}", make_stage([(9, 4), (1, 5), (5, 12)], mode, dims=(5, 3, 4), kept=1, sizes=(7,),
                    strides=(4,), places=((0, 0, 4, 1), (0, 1, 0, 0), (0, 12, 4, 1))))  # fmt: skip
    yield _case("backward", make_stage([(4, 6), (1, 5), (5, 6)], "set", dims=(5, 6), kept=1, sizes=(4,), strides=(6,),
                                       places=((5, 0, -1), (0, 1, 0), (0, 6, 1))))  # fmt: skip


def cost(problem: Problem) -> Cost:
    size = {"float32": 4, "int64": 8}
    read = sum(size[d] * s * w for d, s, w in zip(problem.in_dtypes, problem.in_steps, problem.in_widths))
    written = size[problem.out_dtypes[0]] * problem.out_steps[0] * problem.out_widths[0]
    return Cost(bytes=problem.rows * (read + written), flops=0)


def packed_bytes(stage: Stage) -> int:
    return indexed.packed_bytes(stage) + lines.table_bytes(stage.attrs["whole"][0], 2)


OPERATOR = register_operator(
    Operator(
        name="put",
        axes={"x": ("M", "steps", "width"), "index_k": ("M", "steps", "width"), "src": ("M", "steps", "width"),
              "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
    )
)  # fmt: skip
