"""A step of a program made ready: a group with its plan, or a call in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtaccel.convert.passes.program import FallbackStep, SubgraphStep
from rtaccel.core.traits import FALLBACK
from rtaccel.nn.raw_kernel import RAW_KERNEL, RawKernel, raw_kernel_of
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import StagedPlan
from rtaccel.runtime.gpu.graph import DevicePlan


@dataclass(frozen=True)
class Step:
    """One step made ready. plan: what runs a group. choices: the kernels of a group. reason: why torch keeps a call."""

    source: SubgraphStep | FallbackStep
    name: str
    plan: Any = None
    choices: tuple[Choice, ...] = ()
    reason: str = ""

    @property
    def raw_kernel(self) -> RawKernel | None:
        """The user's own, where the step is one."""
        return raw_kernel_of(self.source.node) if isinstance(self.source, FallbackStep) else None

    @property
    def what(self) -> tuple[str, str]:
        """Of a call in torch: what it is, and which kernel has it."""
        own = self.raw_kernel
        return ("an ordinary torch call", FALLBACK) if own is None else (f"your own {own.name}", RAW_KERNEL)

    @property
    def waits(self) -> list[str]:
        """Operators whose kernels wait for the GPU, so that no graph can hold them."""
        return sorted({choice.stage.op for choice in self.choices if choice.impl.waits})

    @property
    def native(self) -> bool:
        """Whether the plan is one of the native core."""
        return self.plan is not None and not isinstance(self.plan, StagedPlan)

    @property
    def allocates(self) -> bool:
        return not self.native and not isinstance(self.plan, DevicePlan)

    def parts(self, stage: int, samples: int) -> int:
        """How many threads share a stage; 1 where they share the samples instead."""
        if not self.native or self.plan.parts(-1, samples) > 1:
            return 1
        return self.plan.parts(stage, samples)
