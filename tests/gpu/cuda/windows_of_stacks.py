"""What the tests of kernels over windows in CUDA C++ share: two stacks, and which kernel a plan takes for one."""

from __future__ import annotations

import pytest

from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels.recurrent.layout import Geometry

A, B = Geometry(100, layers=2, time=50, last_only=1), Geometry(200, layers=3, time=100, last_only=1)


@pytest.fixture(autouse=True)
def built_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels count as compiled, so that plans take them where there is no card."""
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: None)


def taken(stage: Stage, samples: int = 1) -> tuple[str, dict[str, str | None]]:
    """(name of what a GPU's plan takes, the reasons of what refuses)."""
    problem = Problem.of(stage, samples, "cuda")
    reasons = {impl.name: impl.supports(problem) for impl in impls("triton", stage.op)}
    return next(name for name, reason in reasons.items() if reason is None), reasons
