"""Take in Triton: each element of y by the indices of its line. See triton_indices.py for what one outside gives."""

from __future__ import annotations

from math import prod

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common import indexed
from rtaccel.kernels._general import triton_indices
from rtaccel.kernels._general.triton_places import address, digits, joined
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.take import contract


def text(stage: Stage) -> Text:
    names, places, _ = contract.geometry(stage)
    y, dims = stage.outputs[0], tuple(stage.attrs["dims"])
    made, given = Text(prod(dims), stage.inputs, y), 0
    dims, found = joined(dims, [places[name] for name in names])
    made.add(*digits(dims, "e", "d"), "start = tl.zeros((1, 1), tl.int64)", "known = tl.full((1, 1), True, tl.int1)")
    inputs: dict[str, int | None] = {}
    for name in names:
        if name in stage.tensors:
            made.keep(name, stage.tensors[name])
            inputs[name] = None
        else:
            inputs[name], given = given, given + 1
    for k, (size, stride) in enumerate(zip(stage.attrs["sizes"], stage.attrs["strides"])):
        made.strided(f"i{k}", inputs[f"i{k}"], found[1 + k], "d")
        if stage.attrs["negative"]:
            made.add(f"i{k} = tl.where(i{k} < 0, i{k} + {size}, i{k})")
        made.add(
            f"inner = (i{k} >= 0) & (i{k} < {size})", "known = known & inner",
            f"start = start + tl.where(inner, i{k}, 0) * {stride}",
        )  # fmt: skip
    made.read("x", inputs["x"], f"start + ({address(found[0], 'd')})")
    made.add(f"y = tl.where(known, x, {triton_indices.OUTSIDE[y.dtype]})")
    return made


def supports(problem: Problem) -> str | None:
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x and indices, those that are no tensors of the stage -> y [M, steps, width]; any M."""
    made = text(stage)
    launch = made.launcher(stage, made.specialize("take", problem.rows), problem.device)
    names = indexed.names(stage)
    moving = [name for name in names if name not in stage.tensors]
    sizes = {f"i{k}": size for k, size in enumerate(stage.attrs["sizes"])}
    fixed = [name for name in sizes if name in stage.tensors]
    negative = bool(stage.attrs["negative"])
    triton_indices.check("take", [stage.tensors[n] for n in fixed], [sizes[n] for n in fixed], negative)

    def call(*inputs: Tensor) -> tuple[Tensor]:
        indices = {name: x for name, x in zip(moving, inputs) if name != "x"}
        triton_indices.check("take", list(indices.values()), [sizes[name] for name in indices], negative)
        return launch(*inputs)

    return call


register_impl(Impl("take", "triton_lines", "triton", 10, supports, prepare))
