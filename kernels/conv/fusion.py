"""What a convolution takes into its own launch on a GPU, and how it hands on a NaN that int8 cannot hold.

quantize (static) -> conv                        the convolution rounds x itself, with the same scale
"""

from __future__ import annotations

from dataclasses import replace

from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.stage_traits import Fusion
from rtaccel.kernels.conv import lowering

MOST = 8192
"""Numbers of x in a program that rounds them itself, once for each tap: where it has more, a launch before costs less."""

MAX_LOOKED_AT = 8192
"""Numbers of a sample that one program looks at for a NaN, beside those that compute: more take as long as a launch."""


def _rounds(stage: Stage, rows: int) -> bool:
    """Whether it costs less than a launch that programs of this layer round x."""
    from rtaccel.kernels.conv.triton import grouped, stream, window

    problem = Problem.of(stage, rows, "cuda")
    if stream.supports(problem) is None:  # the newest column alone
        return True
    for kernel in (window, grouped):
        if kernel.supports(problem) is None:
            tile = kernel.specialize(problem).tiling
            products = stage.tensors["weight"][0].numel()
            return tile.block_m * products * (tile.block_n if kernel is grouped else 1) <= MOST
    return False


def give_mark(stage: Stage, mark: Value) -> Stage | None:
    x = stage.inputs[0]
    plain = not lowering.is_stream(stage) and not lowering.takes_mark(stage)
    if "x_scale" not in stage.attrs or x.dtype != "float32" or not plain or x.steps * x.width > MAX_LOOKED_AT:
        return None
    return replace(stage, outputs=(*stage.outputs, mark), attrs={**stage.attrs, "gives_mark": 1})


def take_mark(stage: Stage, mark: Value) -> Stage | None:
    is_int8 = stage.inputs[0].dtype == "int8" and stage.inputs[0].quant is not None
    if not is_int8 or stage.outputs[0].dtype != "float32" or lowering.is_stream(stage):
        return None
    return replace(stage, inputs=(*stage.inputs, mark), attrs={**stage.attrs, "takes_mark": 1})


class ConvFusion(Fusion):
    def static(self, stage: Stage, source: Stage, rows: int) -> Stage | None:
        quant, x = source.outputs[0].quant, source.inputs[0]
        whole = (x.steps, x.width) == (stage.inputs[0].steps, stage.inputs[0].width)
        if quant is None or len(source.inputs) != 1 or not whole or source.tensors:
            return None
        attrs = {**stage.attrs, "x_scale": quant.scale, "x_zero_point": quant.zero_point}
        made = replace(stage, inputs=(x, *stage.inputs[1:]), attrs=attrs)
        return made if _rounds(made, rows) else None
