"""Singular values in plain torch."""

from __future__ import annotations

from functools import partial

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.svd import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too
    return partial(contract.reference, stage)


register_impl(Impl("svd", "portable_torch", "portable", 0, lambda problem: None, prepare, waits=True))
