"""The rule for `grid_sample`: an image with a row of channels for each position where it lies so, else with rows of planes."""

from __future__ import annotations

from math import prod

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, of_one_sample, rule

_MAX_POSITIONS = 2**22
_NUMBERS = {"mode": "interpolation_mode", "padding": "padding_mode"}


@rule(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def _grid_sample(call: Call) -> OpNode | str:
    image, constant = call.view(call["input"]), call.repeated(call["grid"])
    rank, channels, sizes = len(image.dims) - 2, image.shape[1], image.shape[2:]
    samples = image.dims[0]
    if any(image.has_batch(d) for d in range(1, rank + 2)):
        return "layout: its samples are not its first dimension"
    if prod(sizes) > _MAX_POSITIONS or (call["interpolation_mode"] == 2 and rank != 2):
        return "has more than 2^22 positions, or is cubic in space"
    images = prod(a.size for a in samples if not a.batch)
    outs = tuple(call.shape[2:])
    points = prod(outs)
    turned = layout.permute(image, [0, *range(2, rank + 2), 1])
    last = channels > 1 and layout.same_layout(turned, call.build._dense_like(turned))
    base = _rows(call, turned if last else image, channels if last else prod(sizes))
    tensors, reads = {}, [base]
    if constant is not None:
        tensors["grid"] = of_one_sample(constant.detach().float(), (images, *outs, rank)).reshape(-1, rank).clone()
    else:
        grid = call.view(call["grid"])
        if not layout.same_samples(image.dims, grid.dims):
            return "layout: the samples of its grid are not its first dimension"
        reads.append(_rows(call, grid, rank))
    attrs = {
        "sizes": tuple(sizes), "images": images, "channels_last": int(last), "align": int(bool(call["align_corners"])),
        **{own: int(call[given]) for own, given in _NUMBERS.items()},
    }  # fmt: skip
    shape = (*outs, channels) if last else (channels, *outs)
    dense = call.build._dense_like(View("", (samples, *((Atom(n, 1),) for n in shape))))
    result = layout.permute(dense, [0, rank + 1, *range(1, rank + 1)]) if last else dense
    elements = images * channels * points
    width = channels if last else points
    return call.op_node("grid_sample", reads, result, elements, width, attrs=attrs, tensors=tensors)


def _rows(call: Call, view: View, width: int) -> str:
    """The value of a dense tensor in rows of so many numbers."""
    build = call.build
    own = layout.same_layout(view, build._dense_like(view)) and layout.covers(view, build.buffers[view.base].elements)
    if not own or not build.pin(view.base, width):
        view = build.packed(view, width=width)
    if build.buffers[view.base].width != width:
        raise Refused("layout: its rows are of another width")
    return view.base
