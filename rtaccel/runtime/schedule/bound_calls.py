"""A call without arguments for a model that is several steps, which reads and writes the caller's own memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rtaccel.runtime.schedule.schedule import bound

if TYPE_CHECKING:
    from rtaccel.convert.passes.program import Program
    from rtaccel.runtime.steps.executor import Executor


class BoundCalls:
    """Runs what was bound. The model may take other weights: then its executor is another one, and the calls are bound anew."""

    def __init__(
        self, executor: Callable[[], Executor], run: Callable[[], Any], leaves: Sequence[Any], outs: Sequence[Any]
    ) -> None:
        """executor: the one that the model has now. run: the model's own call, for what cannot be bound. leaves, outs: the
        tensors of its arguments and results, in the order of the program, which it has just taken."""
        self._now, self._run, self._leaves, self._outs = executor, run, leaves, outs
        self._executor: Executor | None = None
        self._calls: tuple[Callable[[], Any], ...] | None = None
        self._bind()

    def _bind(self) -> None:
        self._executor = self._now()
        self._calls = None
        if self._executor.schedules is not None:
            self._calls = bound(self._executor, self._leaves, self._outs)

    def __call__(self) -> None:
        if self._now() is not self._executor:
            self._bind()
        if self._calls is None:
            self._run()
            return
        for call in self._calls:
            call()


def flat_results(program: Program) -> int | None:
    """How many results a model gives that takes tensors and gives one tensor or a tuple of them, 0 where it gives them in other
    containers; None where its arguments are nested."""
    args, kwargs = program.in_spec.children()
    given, returned = args.children(), program.out_spec
    if kwargs.num_children or not all(child.is_leaf() for child in given):
        return None
    if returned.is_leaf():
        return 1
    parts = returned.children()
    # One in a tuple is left to the general way: it is no bare tensor.
    return len(parts) if returned.type is tuple and len(parts) > 1 and all(p.is_leaf() for p in parts) else 0
