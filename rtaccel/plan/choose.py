"""Which kernel computes a stage, and why not the others. Decided once; nothing is looked up when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtaccel.backends import backends, require
from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem
from rtaccel.core.registry import Impl, Prepared, impls
from rtaccel.core.stage import Problem, Stage


@dataclass(frozen=True)
class Choice:
    """A stage, the implementation chosen for it, and each one that was not, with the reason."""

    stage: Stage
    problem: Problem
    impl: Impl
    rejected: tuple[tuple[str, str], ...]

    def prepare(self) -> Prepared:
        """The kernel with its weights packed. Plain torch gets them where the problem is; kernels place what they pack."""
        stage, device = self.stage, self.problem.device
        if self.impl.backend == "portable" and device != "cpu":
            stage = replace(stage, tensors={name: t.to(device) for name, t in stage.tensors.items()})
        return self.impl.prepare(stage, self.problem)


def order(device: str, forced: str | None) -> list[str]:
    """Names of backends to try, best first. A forced one comes first; plain torch stands in for what it has no kernel for.

    Raises BackendUnavailable where the forced one cannot run here, or not on the device.
    """
    if forced is not None:
        backend = require(forced)
        if device not in backend.devices:
            where = " or ".join(backend.devices)
            raise BackendUnavailable(
                "backend", f"{forced!r} on {device}", f"a device it runs on: {where}", "Pass device=."
            )
        return [forced] if forced == "portable" else [forced, "portable"]
    return [b.name for b in backends().values() if device in b.devices]


def choose(stage: Stage, rows: int, device: str = "cpu", forced: str | None = None) -> Choice:
    """The first implementation, in the order of `order` and of rank, that supports the stage; the others with reasons.

    Raises UnsupportedProblem with every reason where none does.
    """
    problem = Problem.of(stage, rows, device)
    rejected: list[tuple[str, str]] = []
    chosen: Impl | None = None
    known = backends()
    for name in order(device, forced):
        reason = known[name].unavailable()
        if reason is None and chosen is not None:
            reason = f"{chosen.name} is preferred"
        if reason is not None:
            rejected.append((name, reason))
            continue
        found = impls(name, stage.op)
        if not found:
            rejected.append((name, f"has no {stage.op} kernel"))
        for impl in found:
            reason = f"{chosen.name} is preferred" if chosen else impl.supports(problem)
            if reason is None:
                chosen = impl
            else:
                rejected.append((impl.name, reason))
    if chosen is not None:
        return Choice(stage, problem, chosen, tuple(rejected))
    raise UnsupportedProblem(
        stage.op, str(problem), "a kernel for it", "Rejected: " + "; ".join(f"{n}: {r}" for n, r in rejected) + "."
    )


def choose_all(stages: Sequence[Stage], rows: int, device: str = "cpu", forced: str | None = None) -> list[Choice]:
    return [choose(stage, rows, device, forced) for stage in stages]
