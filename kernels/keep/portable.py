"""Keep in plain torch."""

from __future__ import annotations

from functools import partial

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.keep import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)
    return partial(contract.reference, stage)


register_impl(Impl("keep", "portable_torch", "portable", 0, lambda problem: None, prepare))
