"""Fourier transforms in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common import lines
from rtaccel.kernels.fourier import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too
    dims = tuple(stage.attrs["dims"])

    def call(x: Tensor) -> tuple[Tensor]:
        given = lines.read(x, dims, len(dims) - 1, tuple(stage.attrs["place"]))
        return (contract.transformed(stage, given).reshape(x.shape[0], *stage.outputs[0].shape),)

    return call


register_impl(Impl("fourier", "portable_torch", "portable", 0, lambda problem: None, prepare))
