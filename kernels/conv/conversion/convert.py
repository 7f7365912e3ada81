"""What passes ask of `conv`: its weights, what folds into them, its zeros, and the rows it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.row_traits import Narrowing, RowsNeeded
from rtaccel.core.stage import Stage
from rtaccel.core.stage_traits import Sparse
from rtaccel.core.traits import Folding, Node, Weights
from rtaccel.kernels._common.geometry import Geometry
from rtaccel.kernels.conv.conversion import joined
from rtaccel.kernels.linear.convert import columns, only_weight, scale_outputs

WEIGHTS = Weights(matrices=only_weight, schemes=("float32", "w8a8"), inside="dynamic")

MAX_ADDED = 40
"""Products of an output that a copy of it takes as long as: some 0.3 ns."""


def _columns(node: Node, order: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Some outputs in another order. Groups do not stay together: each output then has weights for all channels, mostly 0."""
    groups, weight = int(node.attrs.get("groups", 1)), node.tensors["weight"]
    if groups == 1:
        return columns(node, order)
    n, each = weight.shape[:2]
    if weight[0].numel() * (groups - 1) > MAX_ADDED:
        return None
    whole = weight.new_zeros(n, each * groups, *weight.shape[2:])
    for i in range(n):
        first = i // (n // groups) * each
        whole[i, first : first + each] = weight[i]
    dense = replace(node, tensors={**node.tensors, "weight": whole}, attrs={**node.attrs, "groups": 1})
    return columns(dense, order)


FOLDING = Folding(residual=True, after=scale_outputs, join=joined.join, skip=joined.skip, columns=_columns)
"""A scale and shift of the input does not fold: padding is zero after them."""


class ConvSparse(Sparse):
    """A convolution of one position without groups multiplies each position by one matrix."""

    def matrices(self, tensors: Mapping[str, Tensor], attrs: Mapping[str, Any]) -> Sequence[str]:
        weight = tensors["weight"]
        return ("weight",) if weight[0, 0].numel() == 1 and int(attrs.get("groups", 1)) == 1 else ()

    def as_matrix(self, stage: Stage) -> Stage | None:
        """The stage of `linear` that each position is."""
        if stage.attrs.get("stream") or len(stage.inputs) > 1:
            return None
        weight, x, y = stage.tensors["weight"], stage.inputs[0], stage.outputs[0]
        geometry = Geometry.of(stage)
        whole = (
            geometry.out_size == geometry.in_size
            and geometry.in_steps is geometry.out_steps is geometry.out_rows is None
        )
        alike = weight[0, 0].numel() == 1 and geometry.stride == (1, 1) and geometry.padding == (0, 0) and whole
        own = weight.dtype == torch.int8 and (x.dtype != "int8" or x.quant is None)  # quantizes its input itself
        if (
            not alike
            or own
            or int(stage.attrs.get("groups", 1)) != 1
            or x.steps != y.steps
            or x.width != weight.shape[1]
        ):
            return None
        attrs = {name: stage.attrs[name] for name in ("activation", "activation_parameter") if name in stage.attrs}
        return Stage(
            "linear", stage.name, stage.inputs, stage.outputs, {**stage.tensors, "weight": weight.flatten(1)}, attrs
        )


def _needed(node: Node, index: int, steps: int, wanted: Collection[int]) -> Iterable[int] | None:
    if index:
        return wanted  # a residual
    if steps == 1:
        return None  # a flat image
    return _taps(node.attrs, wanted)


def _taps(attrs: Mapping[str, Any], wanted: Collection[int]) -> set[int]:
    """The positions of the input that these outputs read: rows of which the same columns are wanted, together."""
    (height, width), (kernel_h, kernel_w) = attrs["in_size"], attrs["kernel"]
    starts = attrs.get("out_rows") or [i * attrs["stride"][0] for i in range(attrs["out_size"][0])]
    below = attrs.get("tap_rows") or [i * attrs["dilation"][0] for i in range(kernel_h)]
    beside = [i * attrs["dilation"][1] for i in range(kernel_w)]
    columns_of: dict[int, set[int]] = {}
    for position in wanted:
        row, column = divmod(position, attrs["out_size"][1])
        columns_of.setdefault(row, set()).add(column)
    reached: dict[frozenset[int], set[int]] = {}
    for row, own in columns_of.items():
        top = starts[row] - attrs["padding"][0]
        reached.setdefault(frozenset(own), set()).update(top + i for i in below if 0 <= top + i < height)
    taps: set[int] = set()
    for own, rows in reached.items():
        lefts = [column * attrs["stride"][1] - attrs["padding"][1] for column in own]
        across = {left + i for left in lefts for i in beside if 0 <= left + i < width}
        taps.update(row * width + column for row in rows for column in across)
    return taps


def _narrow(node: Node, values: Narrowing) -> bool:
    x, y = node.reads[0], node.writes[0]
    if values.is_narrowed(x):
        node.attrs["in_steps"] = tuple(values.rows_of(x))
    if values.is_narrowed(y):
        node.attrs["out_steps"] = tuple(values.rows_of(y))
    node.reads[1:] = [values.fitted(node, name, values.rows_of(y)) for name in node.reads[1:]]
    return False


ROWS = RowsNeeded(_needed, _narrow)
