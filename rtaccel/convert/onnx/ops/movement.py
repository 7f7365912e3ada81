"""Operators that move elements: shapes, slices, joins, padding, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op
from rtaccel.core.errors import UnsupportedProblem


@op("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.dim()))))


@op("Reshape", numbers=(1,))
def reshape(x: Tensor, shape: n.Numbers, *, allowzero: int = 0) -> Tensor:
    sizes = n.ints(shape)
    if not allowzero:
        sizes = [x.shape[i] if isinstance(s, int) and s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() >= 2:
        return x.flatten(1)
    rows = 1
    for size in x.shape[:axis]:
        rows = rows * size
    columns = 1
    for size in x.shape[axis:]:
        columns = columns * size
    return x.reshape(rows, columns)


@op("Squeeze", numbers=(1,))
def squeeze(x: Tensor, given: n.Numbers = None, *, axes: Sequence[int] | None = None) -> Tensor:
    axes = axes if given is None else n.ints(given)
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple(axes)) if len(axes) else x


@op("Unsqueeze", numbers=(1,))
def unsqueeze(x: Tensor, given: n.Numbers = None, *, axes: Sequence[int] = ()) -> Tensor:
    axes = axes if given is None else n.ints(given)
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


@op("Split", numbers=(1,))
def split(
    x: Tensor,
    sizes: n.Numbers = None,
    *,
    outputs: int,
    axis: int = 0,
    split: Any = None,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    parts = split if sizes is None else n.ints(sizes)
    if parts is None:
        each = -(-x.shape[axis] // outputs)
        return tuple(torch.split(x, each, axis))
    return tuple(torch.split(x, list(parts), axis))


def slice_(x: Tensor, starts: n.Numbers, ends: n.Numbers, axes: n.Numbers = None, steps: n.Numbers = None) -> Tensor:
    return _sliced(x, n.ints(starts), n.ints(ends), None if axes is None else n.ints(axes), steps)


@op("Slice", since=1)
def slice_1(x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
    """Before opset 10."""
    return _sliced(x, list(starts), list(ends), None if axes is None else list(axes), None)


op("Slice", since=10, numbers=(1, 2, 3, 4))(slice_)


def _sliced(x: Tensor, starts: list[Any], ends: list[Any], axes: list[int] | None, steps: n.Numbers) -> Tensor:
    strides = [1] * len(starts) if steps is None else n.ints(steps)
    for i, (start, end, step) in enumerate(zip(starts, ends, strides)):
        axis = (axes[i] if axes is not None else i) % x.dim()
        if step > 0:
            if isinstance(end, int) and end >= 2**31 - 1:
                end = None
            if (start, end, step) != (0, None, 1):
                x = x[(slice(None),) * axis + (slice(start, end, step),)]
            continue
        size = x.shape[axis]
        picked = range(size)[slice(start, None if isinstance(end, int) and end < -(2**31) + 1 else end, step)]
        if len(picked) == size and step == -1:
            x = x.flip(axis)
        else:
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return x


@op("Expand", numbers=(1,))
def expand(x: Tensor, shape: n.Numbers) -> Tensor:
    sizes = n.ints(shape)
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    sizes = [1] * (len(own) - len(sizes)) + sizes
    wanted = [a if isinstance(b, int) and b == 1 else b for a, b in zip(own, sizes)]
    return x.expand(wanted)


@op("Tile", numbers=(1,))
def tile(x: Tensor, repeats: n.Numbers) -> Tensor:
    return x.repeat(n.ints(repeats))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(x: Tensor, pads: n.Numbers, value: Any = None, axes: n.Numbers = None, *, mode: str = "constant") -> Tensor:
    given, rank = n.ints(pads), x.dim()
    places = range(rank) if axes is None else [a % rank for a in n.ints(axes)]
    count = len(given) // 2
    ends: dict[int, tuple[Any, Any]] = {a: (given[i], given[i + count]) for i, a in enumerate(places)}
    return _padded(x, ends, mode, value)


@op("Pad", since=1)
def pad_1(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Before opset 11."""
    count = len(pads) // 2
    return _padded(x, {i: (pads[i], pads[i + count]) for i in range(count)}, mode, value)


op("Pad", since=11, numbers=(1, 3), scalars=(2,))(pad)


def _padded(x: Tensor, ends: dict[int, tuple[Any, Any]], mode: str, value: Any) -> Tensor:
    ends = {a: e for a, e in ends.items() if not (isinstance(e[0], int) and isinstance(e[1], int)) or any(e)}
    if not ends:
        return x
    if mode == "constant":
        first = min(ends)
        flat = [v for a in reversed(range(first, x.dim())) for v in ends.get(a, (0, 0))]
        number = 0.0 if value is None else value
        if isinstance(number, Tensor):
            number = number.item()
        return F.pad(x, flat, value=number)
    if any(v < 0 for pair in ends.values() for v in pair if isinstance(v, int)):
        raise UnsupportedProblem("Pad", f"mode {mode!r} that cuts", "pads of 0 or more", "Slice first.")
    for axis, (before, after) in ends.items():  # one dimension after the other is the same for every one of these modes
        last = x.movedim(axis, -1)
        shape = last.shape
        rows = last.reshape(1, -1, shape[-1]) if last.dim() != 3 else last
        made = F.pad(rows, (before, after), mode=_MODES[mode])
        x = made.reshape(*shape[:-1], made.shape[-1]).movedim(-1, axis)
    return x


@op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    b, c, h, w = x.shape
    x = x.reshape(b, blocksize, blocksize, c // blocksize**2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(b, c // blocksize**2, h * blocksize, w * blocksize)


@op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(b, c * blocksize**2, h // blocksize, w // blocksize)


@op("Trilu", numbers=(1,))
def trilu(x: Tensor, k: n.Numbers = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else n.ints(k)[0]
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    rows = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(rows.shape[1])[None]
    places = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    index = places.reshape(*places.shape, *(1 for _ in rows.shape[2:])).expand(rows.shape)
    return torch.gather(rows, 1, index).movedim((0, 1), (batch_axis, time_axis))


@op("ConstantOfShape", builds=True)
def constant_of_shape(build: Any, shape: Any, *, value: Any = None) -> Any:
    number, kind = (0.0, torch.float32) if value is None else (value.tensor.reshape(-1)[0].item(), value.tensor.dtype)
    return build.call(filled, build.numbers(shape, 0), number=number, dtype=kind)


def filled(shape: n.Numbers, *, number: float, dtype: torch.dtype) -> Tensor:
    return torch.full(n.ints(shape), number, dtype=dtype) if number else torch.zeros(n.ints(shape), dtype=dtype)


@op("Range", builds=True)
def range_(build: Any, start: Any, limit: Any, delta: Any) -> Any:
    given = [build.numbers(ref, i) for i, ref in enumerate((start, limit, delta))]
    return build.call(counted, *given, dtype=build.dtype_of(start))


def counted(start: n.Numbers, limit: n.Numbers, delta: n.Numbers, *, dtype: torch.dtype) -> Tensor:
    first, last, step = n.one(start), n.one(limit), n.one(delta)
    return torch.arange(first, last, step).to(dtype)


@op("BitCast", builds=True)
def bit_cast(build: Any, x: Any, *, to: int) -> Any:
    return build.call(viewed, x, dtype=build.onnx_dtype(to))


def viewed(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    return x.view(dtype)


@op("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    from rtaccel.convert.onnx.dtypes import dtype_of

    kind = x.dtype if dtype is None else dtype_of(dtype)
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None]
    return (columns - rows == k).to(kind)
