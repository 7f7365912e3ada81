"""Products with a parameter of several matrices, one for each block of columns of a row: a layer of a block-diagonal matrix.

`einsum` writes them so for the heads of a projection. They are convolutions of one position in as many groups, which read and
write whole rows: a product for each block would leave its columns apart.
"""

from __future__ import annotations

from torch import Tensor

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode, zeros_like_rows
from rtaccel.convert.patterns.images.windows import CONV
from rtaccel.convert.patterns.rules import Call


def by_blocks(call: Call, weight: Tensor) -> OpNode | None:
    """x [.., G, .., i, k] times [G, 1.., k, j], where the G k numbers are columns of one row; None where they are not."""
    view = call.view(call["self"])
    several = [d for d, size in enumerate(weight.shape[:-2]) if size != 1]
    rank = len(view.dims)
    if weight.is_complex() or len(several) != 1 or weight.dim() > rank or view.has_batch(rank - 1):
        return None
    at = several[0] + rank - weight.dim()
    groups, (k, j) = weight.shape[several[0]], weight.shape[-2:]
    blocks, inner = layout.run_of(view, at), layout.run_of(view, rank - 1)
    if blocks is None or inner is None or (blocks.size, blocks.stride) != (groups, k) or (k > 1 and inner.stride != 1):
        return None
    width = call.build.buffers[view.base].width
    if width and (width < groups * k or view.offset % width + groups * k > width):  # blocks are rows of their own
        return None
    outer = tuple(dim for d, dim in enumerate(view.dims[:-1]) if d != at)
    rows = call.build.rows(View(view.base, (*outer, (Atom(groups * k, 1),)), view.offset))
    steps = call.build.buffers[rows.base].steps
    filters = weight.reshape(groups, k, j).transpose(1, 2).reshape(groups * j, k, 1, 1).float().contiguous()
    one, size = (1, 1), (1, steps)
    attrs = {
        "in_size": size, "out_size": size, "kernel": one, "stride": one, "dilation": one, "padding": (0, 0), "groups": groups,
    }  # fmt: skip
    made = call.build.scaled(rows, call.node.name, groups * j)
    dims = [*made.dims[:-1], (Atom(j, 1),)]
    dims.insert(at, (Atom(groups, j),))
    tensors = {"weight": filters, "bias": zeros_like_rows(filters)}
    result = View(made.base, tuple(dims))
    return call.op_node(CONV, [rows.base], result, steps * groups * j, groups * j, tensors=tensors, attrs=attrs)
