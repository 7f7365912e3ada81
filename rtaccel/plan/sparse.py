"""Sparse or dense: a linear stage whose weight holds zeros, in the form that is fastest here.

Which form wins depends on the pattern, the size, the batch and the processor, so it is measured: each form that could
win by its bytes is timed alone, as `explain()` times stages, against the dense kernel. What is int8 gives the same bits
in every form; float32 sums are in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rtaccel.backends import backends
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.formats import blocks, semi
from rtaccel.kernels.sparse_linear import contract
from rtaccel.plan.choose import choose
from rtaccel.plan.timing import time_stage

MIN_ZEROS = 0.4
"""Fraction of zeros below which no form is tried: indices and gaps take what the zeros save."""

MIN_WEIGHTS = 4096
"""Weights below which none is tried: the dense kernel takes some 0.1 us, and a mispredicted loop as much."""

MAX_TIME_RATIO = 0.95
"""A sparse form is taken where it needs at most this part of the dense time: less is within the noise."""

_BLOCKS = ((16, 16), (16, 4), (8, 8), (32, 32), (4, 4), (1, 16), (1, 4))
"""Sizes of blocks that a pattern is looked at with."""


@dataclass(frozen=True)
class SparseChoice:
    """The stage to take, and in words why."""

    stage: Stage
    reason: str

    @property
    def sparse(self) -> bool:
        """Whether its kernel leaves zeros out: such a stage says in which layout."""
        return bool(self.stage.attrs.get("layout", "dense") != "dense")


def zeros(weight: Tensor) -> float:
    """Fraction of zeros."""
    return 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)


def could_be_sparse(stage: Stage, always: bool = False) -> bool:
    """Whether a product with a matrix has enough zeros, in a form that sparse kernels take, to be worth a measurement. always:
    however many it has."""
    weight = stage.tensors.get("weight")
    if (
        not operator(stage.op).sparse.is_matrix
        or weight is None
        or weight.device.type != "cpu"
        or (weight.numel() < MIN_WEIGHTS and not always)
    ):
        return False
    plain = weight.dtype == torch.float32 or (weight.dtype == torch.int8 and stage.inputs[0].dtype == "int8")
    return plain and stage.inputs[0].width <= 65_536 and (always or zeros(weight) >= MIN_ZEROS)


def fastest(
    dense: Stage, rows: int, backend: str | None = None, first: Stage | None = None, instead: Stage | None = None,
    always: bool = False,
) -> SparseChoice:  # fmt: skip
    """The fastest form of a stage of `linear`, for so many rows on the CPU.

    first: a sparse form that is there already. instead: what computes it dense, a convolution with as many positions as
    `rows` has for each sample. always: zero by zero, and nothing is measured.
    """
    if backend not in (None, "cpu") or backends()["cpu"].unavailable() is not None:
        return SparseChoice(
            dense, f"{dense.name} is computed dense: sparse kernels are native, and another backend is asked for"
        )
    if not could_be_sparse(dense, always):
        part = zeros(dense.tensors["weight"])
        return SparseChoice(
            dense, f"{dense.name} is computed dense: {part:.0%} zeros in {dense.tensors['weight'].numel()} weights"
        )
    if always:
        label, stage = next(_forms(dense, first))
        share = f"{zeros(dense.tensors['weight']):.1%} zeros"
        return SparseChoice(stage, f"{dense.name} is computed sparse ({label}, as always=True asks, {share})")
    times = {"dense": _time(dense, rows) if instead is None else _time(instead, rows // instead.outputs[0].steps)}
    choices: dict[str, Stage] = {}
    for label, stage in _forms(dense, first):
        choices[label] = stage
        times[label] = _time(stage, rows)
    best = min(choices, key=lambda label: times[label])
    found = f"{zeros(dense.tensors['weight']):.1%} zeros"
    figures = ", ".join(f"{label} {us:.2f} us" for label, us in times.items())
    if times[best] <= MAX_TIME_RATIO * times["dense"]:
        return SparseChoice(
            choices[best], f"{dense.name} is computed sparse ({best}, {found}): {figures} with {rows} rows"
        )
    return SparseChoice(
        dense, f"{dense.name} is computed dense, which is not slower ({found}): {figures} with {rows} rows"
    )


def _time(stage: Stage, rows: int) -> float:
    return time_stage(choose(stage, rows))


def _forms(dense: Stage, first: Stage | None) -> Iterator[tuple[str, Stage]]:
    """By name. One that is stored already keeps its storage, whatever layout it is computed in."""

    def made(layout: str, block: tuple[int, int] = (16, 16)) -> Stage:
        if first is not None:
            return replace(first, attrs={**first.attrs, "layout": layout})
        return contract.sparse_stage(dense, layout, block)

    weight = dense.tensors["weight"]
    yield "unstructured", made("window")
    if semi.fits(weight):
        yield "2:4", made("2:4")
    if _occupied(weight, (16, 4)) <= 0.75:
        yield (
            "blocks",
            made("blocks", min(_BLOCKS, key=lambda block: _occupied(weight, block) * (1 + 2 / (block[0] * block[1])))),
        )


def _occupied(weight: Tensor, block: tuple[int, int]) -> float:
    """Fraction of the blocks of a size that hold a number."""
    return float((blocks.tiled(weight, block) != 0).flatten(2).any(2).float().mean())
