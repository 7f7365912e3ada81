"""Elements that computed indices select: what the operators that read by index and that write by index share.

An iteration has `dims`, of which the first `kept` are lines; an index operand is the same all along a line. Each index has a
size, what it may be below, and a stride, what it adds to the element that a line starts at. Operands are named x, i0, i1, ... and
src; those that are no tensors of the stage are its inputs, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage
from rtaccel.kernels._common import lines
from rtaccel.kernels._common.strides import elements

MAX_INDICES = 4


def names(stage: Stage, last: tuple[str, ...] = ()) -> list[str]:
    """Of all operands. last: those behind the indices."""
    count = len(stage.attrs["sizes"])
    if not 1 <= count <= MAX_INDICES or len(stage.attrs["strides"]) != count:
        raise ShapeError(stage.op, f"{count} indices", f"1 to {MAX_INDICES}, each with a stride", "Correct the stage.")
    return ["x", *(f"i{k}" for k in range(count)), *last]


def given(stage: Stage, found: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each operand as [M or 1, elements]."""
    queue = iter(inputs)
    device = inputs[0].device
    tensors = {name: stage.tensors[name].reshape(1, -1).to(device) for name in found if name in stage.tensors}
    return {name: tensors[name] if name in tensors else next(queue).flatten(1) for name in found}


def widths(stage: Stage, found: Sequence[str]) -> dict[str, tuple[int, int, str]]:
    """(elements, columns of a row, dtype) of each operand. Raises ShapeError where the stage has not as many inputs."""
    queue = list(stage.inputs)
    if len(found) != len(queue) + sum(name in stage.tensors for name in found):
        raise ShapeError(stage.op, f"{len(queue)} inputs", f"{', '.join(found)}", "Correct the stage.")
    sizes: dict[str, tuple[int, int, str]] = {}
    for name in found:
        if name in stage.tensors:
            tensor = stage.tensors[name]
            sizes[name] = (tensor.numel(), tensor.numel(), str(tensor.dtype).removeprefix("torch."))
        else:
            value = queue.pop(0)
            sizes[name] = (value.steps * value.width, value.width, value.dtype)
    return sizes


def reach(stage: Stage) -> tuple[int, int]:
    """The least and the most that indices add to an element."""
    ends = [(n - 1) * s for n, s in zip(stage.attrs["sizes"], stage.attrs["strides"])]
    return sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)


def selected(stage: Stage, operands: dict[str, Tensor], places: dict[str, lines.Place]) -> Tensor:
    """What the indices add to the element that a line starts at, [M or 1, lines]. Raises FormatError for one outside."""
    dims, kept = stage.attrs["dims"], stage.attrs["kept"]
    total = torch.zeros(1, prod(dims[:kept]), dtype=torch.int64, device=operands["i0"].device)
    for k, (size, stride) in enumerate(zip(stage.attrs["sizes"], stage.attrs["strides"])):
        at = torch.from_numpy(elements(dims[:kept], places[f"i{k}"][: kept + 1])).to(total.device)
        index = operands[f"i{k}"][:, at]
        low = -size if stage.attrs["negative"] else 0
        bad = (index < low) | (index >= size)
        if bad.any():
            raise FormatError(stage.op, f"index {index[bad][0].item()}", f"indices in {low}..{size - 1}",
                              "Mend what the indices are computed from.")  # fmt: skip
        total = total + torch.where(index < 0, index + size, index) * stride
    return total


def check(
    stage: Stage,
    places: dict[str, lines.Place],
    sizes: dict[str, tuple[int, int, str]],
    by_index: str,
    elements_of: int,
) -> None:
    """Raises a typed error for places that do not fit. by_index: the operand that indices select from, of so many elements."""
    dims, kept = tuple(stage.attrs["dims"]), stage.attrs["kept"]
    if not 0 <= kept <= len(dims) or not prod(dims):
        raise ShapeError(stage.op, f"{dims}, {kept} kept", "lines of some elements", "Correct the stage.")
    low, high = reach(stage)
    for name, place in places.items():
        if name == by_index:
            shifted = (place[0] + low, *place[1:]), (place[0] + high, *place[1:])
            for moved in shifted:
                lines.check_place(stage.op, dims, moved, elements_of)
        elif name in sizes:
            lines.check_place(stage.op, dims, place, sizes[name][0])
            if name.startswith("i") and (any(place[kept + 1 :]) or sizes[name][2] != "int64"):
                raise ShapeError(stage.op, f"index {name} of {sizes[name][2]} at {place}", "int64, alike along a line",
                                 "Correct the stage.")  # fmt: skip


def lowered(
    stage: Stage, places: dict[str, lines.Place], sizes: dict[str, tuple[int, int, str]], by_index: str
) -> dict[str, Any]:
    """Tables of the indices and of the operand that they select from, as kernels in C++ read them; constants too."""
    dims, kept = tuple(stage.attrs["dims"]), stage.attrs["kept"]
    low: dict[str, Any] = {
        "indices": len(stage.attrs["sizes"]), "negative": stage.attrs["negative"],
        "sizes": tuple(stage.attrs["sizes"]), "strides": tuple(stage.attrs["strides"]),
        "count": prod(dims[:kept]), "along": prod(dims[kept:]),
        "base": tuple(elements(dims[:kept], places[by_index][: kept + 1]).tolist()),
        "step": tuple(elements(dims[kept:], (0, *places[by_index][kept + 1 :])).tolist()),
    }  # fmt: skip
    for k in range(low["indices"]):
        name = f"i{k}"
        low |= lines.tables(f"_{name}", (*dims[:kept], 1), kept, (*places[name][: kept + 1], 0), sizes[name][1])
    for name, tensor in stage.tensors.items():
        low[name] = tensor.reshape(-1)
    return low


def packed_bytes(stage: Stage) -> int:
    constants = sum(8 * (t.numel() + 64) for t in stage.tensors.values())
    return lines.table_bytes(stage.attrs["dims"], 4 + MAX_INDICES) + constants
