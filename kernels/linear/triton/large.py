"""W4A16 and W8A16 of large layers on tensor cores, of `linear` and what is like it: by thirds of x, and on wide tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import ASYNC_COPY, BF16_MMA, WIDE_LOAD, Specialisation
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton import thirds_config, wide_config
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig

Supports = Callable[[Problem], "str | None"]


@dataclass(frozen=True)
class Kind:
    """One of the two kernels: the rank of its implementations, the functions of its file, what its code must have."""

    name: str
    rank: int
    supports: Supports
    prepared: Callable[[str, KernelConfig, Mapping[str, Any], Problem], Prepared]
    specialize: Callable[[KernelConfig, int], Specialisation]
    requires: tuple[str, ...]

    def form(self, config: KernelConfig, rows: int) -> Specialisation:
        """One that is compiled and held to a budget without a GPU."""
        return self.specialize(config, rows).with_requirements(*self.requires)


THIRDS = Kind(
    "triton_thirds", 22, thirds_config.supports, thirds_config.prepared, thirds_config.specialize, (BF16_MMA, WIDE_LOAD)
)
WIDE = Kind(
    "triton_wide", 14, wide_config.supports, wide_config.prepared, wide_config.specialize, (BF16_MMA, ASYNC_COPY)
)


def register(
    op: str,
    config_of: Callable[[Problem], KernelConfig],
    lower: Callable[[Stage], Mapping[str, Any]],
    refused: Supports,
) -> None:
    """Both kernels of an operator. refused: why neither is for a problem, whatever its size.

    x float32 [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    for kind in (THIRDS, WIDE):

        def supports(problem: Problem, kind: Kind = kind) -> str | None:
            return refused(problem) or kind.supports(problem)

        def prepare(stage: Stage, problem: Problem, kind: Kind = kind) -> Prepared:
            return kind.prepared(op, config_of(problem), lower(stage), problem)

        register_impl(Impl(op, kind.name, "triton", kind.rank, supports, prepare))


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    make = contract_weights.make_stage
    for kind, stage, rows in (
        (THIRDS, make(4096, 4096, "w4a16", group_size=128), 1),
        (THIRDS, make(4096, 4096, "w4a16"), 1),
        (THIRDS, make(4096, 4096, "w8a16", "relu"), 1),
        (THIRDS, make(11008, 4096, "w4a16", group_size=128), 1),
        (THIRDS, make(4096, 2048, "w4a16", "gelu", group_size=64), 2),
        (THIRDS, make(4096, 4096, "w4a16", group_size=128), 4),
        (THIRDS, make(4096, 4096, "w8a16"), 8),
        (WIDE, make(4096, 4096, "w4a16", group_size=128), 16),
        (WIDE, make(4096, 4096, "w4a16", group_size=128), 64),
        (WIDE, make(4096, 4096, "w4a16"), 64),
        (WIDE, make(4096, 4096, "w8a16", "relu"), 16),
        (WIDE, make(4096, 4096, "w8a16", "relu"), 64),
    ):
        yield kind.form(KernelConfig.of_linear(Problem.of(stage, rows, "cuda")), rows)
    config = KernelConfig.of_linear(Problem.of(make(4096, 4096, "w4a16", group_size=128), 64, "cuda"))
    yield wide_config.specialize_rows(config, 64).with_requirements()


register("linear", KernelConfig.of_linear, contract.lower, lambda problem: None)
