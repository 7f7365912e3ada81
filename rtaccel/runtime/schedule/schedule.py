"""The bound calls of a program, for the batches that were called last and for callers who reuse their buffers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.convert.passes.program import FallbackStep
from rtaccel.nn.check import dense, is_freed, is_plain
from rtaccel.runtime.memory import share_elements
from rtaccel.runtime.schedule.binder import Binder, Call, Unbindable, group_call

if TYPE_CHECKING:
    from rtaccel.runtime.steps.executor import Executor

KEPT = 4
"""Batches whose calls are kept. Each has memory of its own for every value that torch reads or gives."""


class Schedule:
    """Calls in order, from tensors that hold the arguments to tensors that hold the results."""

    def __init__(self, executor: Executor, leaves: Sequence[Any]) -> None:
        """leaves: tensors are read where they lie at every run; contiguous, without gradients. Raises Unbindable."""
        with torch.inference_mode(False), torch.no_grad():  # what is made here may be written at any later time
            binder = Binder(executor, leaves)
            self.results = binder.bind()
        self.inputs, self.calls = list(leaves), binder.calls
        self.runs = tuple(call.run for call in self.calls)

    @classmethod
    def of_copies(cls, executor: Executor, leaves: Sequence[Any]) -> Schedule:
        """One that reads copies of the arguments."""
        with torch.inference_mode(False), torch.no_grad():
            own = [dense(x).clone() if isinstance(x, Tensor) else x for x in leaves]
        return cls(executor, own)

    def fits(self, leaves: Sequence[Any]) -> bool:
        """Whether these are arguments of the same shapes, with nothing about them that needs a second look."""
        return _alike(leaves, self.inputs)

    def fits_out(self, outs: Sequence[Any]) -> bool:
        """The same of memory for the results, each of them apart from the others."""
        if not _alike(outs, self.results) or not all(out.is_contiguous() for out in outs):
            return False
        return len(outs) == 1 or len({out.untyped_storage().data_ptr() for out in outs}) == len(outs)

    def take(self, leaves: Sequence[Any]) -> None:
        """Copies the arguments into their places."""
        for given, own in zip(leaves, self.inputs):
            if isinstance(own, Tensor):
                own.copy_(given.detach() if given.requires_grad else given)

    def give(self) -> list[Any]:
        """The results in memory of their own."""
        return [r.clone() if isinstance(r, Tensor) else r for r in self.results]

    def run(self, leaves: Sequence[Any]) -> None:
        self.take(leaves)
        for call in self.runs:
            call()

    def __call__(self, leaves: Sequence[Any]) -> list[Any]:
        self.run(leaves)
        return self.give()


def _alike(given: Sequence[Any], own: Sequence[Any]) -> bool:
    if len(given) != len(own):
        return False
    for a, b in zip(given, own):
        if type(a) is not Tensor or not isinstance(b, Tensor) or a.is_nested:  # which has no shape to ask for
            return False
        if a.shape != b.shape or a.dtype is not b.dtype or a.layout is not torch.strided:
            return False
        if not a.is_cpu or not is_plain(a) or is_freed(a):
            return False
    return True


def _fastest(call: Callable[[], Any], rounds: int = 12) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter_ns()
        call()
        best = min(best, perf_counter_ns() - start)
    return best / 1e3


class Schedules:
    """Those of one executor. A batch is bound when it comes for the second time: a batch that comes once is not worth it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._known: OrderedDict[tuple[Any, ...], Schedule | None] = OrderedDict()
        self._seen: tuple[Any, ...] | None = None
        self._lock = Lock()
        self._last: Schedule | None = None

    def torch_us(self) -> dict[str, float]:
        """Microseconds of each call of torch by itself, by the name of its node, on what the last call left in memory: 0 for what
        is computed once for a batch. Empty where nothing is bound."""
        if self._last is None:
            return {}
        found = {s.node.name: 0.0 for s in self._executor.program.steps if isinstance(s, FallbackStep)}
        with self._lock:
            for call in self._last.calls:
                if call.step is not None and isinstance(call.step.source, FallbackStep):
                    found[call.step.source.node.name] = _fastest(call.run)
        return found

    def quick(self, leaves: Sequence[Any]) -> list[Any] | None:
        """The results where the arguments are as those of the last call; None where they are to be looked at."""
        last = self._last
        if last is None or not last.fits(leaves) or not self._lock.acquire(blocking=False):
            return None  # or another thread is in a call, and the memory is its own until it ends
        try:
            return last(leaves)
        finally:
            self._lock.release()

    def write(self, leaves: Sequence[Any], outs: Sequence[Any]) -> bool:
        """Writes the results where the tensors are as those of the last call; False, with nothing done, where they are not."""
        last = self._last
        if last is None or not last.fits(leaves) or not last.fits_out(outs) or not self._lock.acquire(blocking=False):
            return False
        try:
            last.run(leaves)
            for out, result in zip(outs, last.results):
                (out.detach() if out.requires_grad or out.is_inference() else out).copy_(result)
        finally:
            self._lock.release()
        return True

    def __call__(self, leaves: Sequence[Any]) -> list[Any] | None:
        """The results for arguments that were checked; None where the calls are not, or not yet, bound."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            found = self._schedule(leaves)
            return None if found is None else found(leaves)
        finally:
            self._lock.release()

    def _schedule(self, leaves: Sequence[Any]) -> Schedule | None:
        key = tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves)
        if key not in self._known:
            if key != self._seen:
                self._seen = key
                return None
            try:
                self._known[key] = Schedule.of_copies(self._executor, leaves)
            except Unbindable:
                self._known[key] = None
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        self._last = found = self._known[key]
        return found


def bound(executor: Executor, leaves: Sequence[Any], outs: Sequence[Any]) -> tuple[Callable[[], Any], ...] | None:
    """The calls that read the caller's tensors and write the caller's outs, which were checked; None where they are not bound."""
    own: list[Any] = []
    copies: list[Callable[[], Any]] = []
    with torch.inference_mode(False), torch.no_grad():
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                own.append(leaf)
                continue
            flat = leaf.detach().as_subclass(Tensor)
            if dense(flat).data_ptr() == flat.data_ptr():
                own.append(flat)
                continue
            made = dense(flat).clone()
            copies.append(partial(made.copy_, flat))
            own.append(made)
        targets = [t.detach() if isinstance(t, Tensor) else t for t in outs]
        try:
            schedule = Schedule(executor, own)
        except Unbindable:
            return None
        calls = list(schedule.calls)
        pairs = [(r, t) for r, t in zip(schedule.results, targets) if isinstance(r, Tensor)]
        last = _written_in_place(calls[-1], pairs, own) if calls else None
        if last is not None:
            calls[-1] = last
        runs = [*copies, *(call.run for call in calls)]
        for result, target in pairs if last is None else ():
            runs.append(partial(target.copy_, result))
    return tuple(runs)


def _written_in_place(call: Call, pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Any]) -> Call | None:
    """The last call, a group that gives every result, with the caller's outs as its own; None where it is not that."""
    if call.step is None or call.step.plan is None:
        return None
    places = {id(result): target for result, target in pairs}
    if len(places) != len(pairs) or any(id(out) not in places for out in call.outputs):
        return None
    if len(pairs) != len(call.outputs):
        return None
    outs = tuple(places[id(out)] for out in call.outputs)
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    if any(share_elements(out, t) for out in outs for t in tensors):
        return None
    if any(out.shape != r.shape or not out.is_contiguous() or out.is_neg() for out, r in zip(outs, call.outputs)):
        return None
    try:
        return Call(call.name, group_call(call.step, call.inputs, outs), call.step, call.inputs, outs)
    except Unbindable:
        return None
