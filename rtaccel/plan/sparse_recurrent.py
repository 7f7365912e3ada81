"""Sparse or dense: a stage whose own kernels can leave zeros out (an LSTM, a GRU), in the form that is faster here.

The stage is one and its weights are stored the same either way; the attribute `layout` says how kernels pack them. Int8
weights give the same bits in both forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rtaccel.backends import backends
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.plan.sparse import MAX_TIME_RATIO, MIN_WEIGHTS, MIN_ZEROS, SparseChoice, zeros
from rtaccel.plan.sparse import _time as time


def matrices(stage: Stage) -> Iterator[Tensor]:
    """The weights of a stage, without their scales."""
    return (stage.tensors[name] for name in operator(stage.op).sparse.matrices(stage.tensors, stage.attrs))


def could_be_sparse(stage: Stage) -> bool:
    """Whether one of its matrices has enough zeros, in a form that sparse kernels take, to be worth a measurement."""
    if not operator(stage.op).sparse.by_layout:
        return False
    return any(
        w.dtype in (torch.float32, torch.int8) and w.device.type == "cpu" and w.numel() >= MIN_WEIGHTS
        and zeros(w) >= MIN_ZEROS
        for w in matrices(stage)
    )  # fmt: skip


def fastest(dense: Stage, samples: int, backend: str | None = None) -> SparseChoice:
    """The faster form of a stage that `could_be_sparse`, for so many samples on the CPU."""
    weights = list(matrices(dense))
    part = 1 - sum(int(torch.count_nonzero(w)) for w in weights) / max(sum(w.numel() for w in weights), 1)
    if backend not in (None, "cpu") or backends()["cpu"].unavailable() is not None:
        return SparseChoice(
            dense, f"{dense.name} is computed dense: sparse kernels are native, and another backend is asked for"
        )
    if not could_be_sparse(dense):
        return SparseChoice(dense, f"{dense.name} is computed dense: {part:.0%} zeros in its weights")
    sparse = replace(dense, attrs={**dense.attrs, "layout": "sparse"})
    times = time(dense, samples), time(sparse, samples)
    figures = f"({part:.1%} zeros): dense {times[0]:.2f} us, sparse {times[1]:.2f} us with {samples} samples"
    if times[1] <= MAX_TIME_RATIO * times[0]:
        return SparseChoice(sparse, f"{dense.name} is computed sparse {figures}")
    return SparseChoice(dense, f"{dense.name} is computed dense, which is not slower {figures}")
