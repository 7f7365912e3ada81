"""A compiled model that leaves calls to torch, timed once beside the model it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.core.errors import RtaccelError
from rtaccel.core.traits import FALLBACK
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.inspection.profile import profile_stages

ROUNDS, ROUND_NS, MAX_NS = 5, 1_000_000, 400_000_000
"""Rounds of each, how long one of them lasts at least, and what all of them may take."""


@dataclass(frozen=True)
class AgainstEager:
    """Microseconds of a call, the fastest round of each."""

    compiled_us: float
    eager_us: float

    @property
    def slower(self) -> bool:
        return self.compiled_us > self.eager_us

    def note(self) -> str:
        return (
            f"a call takes {self.compiled_us:.3g} us where the model itself takes {self.eager_us:.3g} (measured once)"
        )


def against_eager(model: nn.Module, fast: CompiledModel, args: tuple[Any, ...]) -> AgainstEager | None:
    """None where one of them does not run with the example, or a call is too long to be timed in passing."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            calls = (_bound(fast, args), lambda: model(*args))
            first = [_round(call, 1) for call in calls for _ in range(2)]
            if sum(first) > MAX_NS / 2:
                return None
            counts = [max(1, int(ROUND_NS // max(first[2 * i + 1], 1))) for i in range(2)]
            best = [float("inf")] * 2
            start = perf_counter_ns()
            for _ in range(ROUNDS):
                for i, call in enumerate(calls):
                    best[i] = min(best[i], _round(call, counts[i]) / counts[i])
                if perf_counter_ns() - start > MAX_NS:
                    break
    except (RtaccelError, RuntimeError):
        return None
    finally:
        torch.set_num_threads(threads)
    return AgainstEager(best[0] / 1e3, best[1] / 1e3)


def costliest_fallback(fast: CompiledModel, args: tuple[Any, ...]) -> str | None:
    """The call of torch that takes the longest, with its time and its part of the whole; None where it cannot be told."""
    try:
        found = profile_stages(fast, args, calls=5)
    except RtaccelError:
        return None
    calls = [stage for stage in found.stages if stage.kernel == FALLBACK]
    if not calls:
        return None
    worst = max(calls, key=lambda stage: stage.us)
    return f"{worst.name} takes {worst.us:.3g} us, {found.share(worst):.0%} of a call"


def _bound(fast: CompiledModel, args: tuple[Any, ...]) -> Callable[[], Any]:
    result = [fast(*args) for _ in range(3)][-1]  # and its own calls are bound, for `explain` to time
    outs = pytree.tree_map(lambda leaf: torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf, result)
    return fast.bind(*pytree.tree_map(_own, args), out=outs)


def _own(leaf: Any) -> Any:
    return leaf.detach().contiguous() if isinstance(leaf, Tensor) else leaf


def _round(call: Callable[[], Any], count: int) -> int:
    start = perf_counter_ns()
    for _ in range(count):
        call()
    return perf_counter_ns() - start
