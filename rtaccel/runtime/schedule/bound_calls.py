"""A call without arguments for a model that is several steps, which reads and writes the caller's own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

from rtaccel.runtime.schedule.schedule import bound

if TYPE_CHECKING:
    from rtaccel.convert.passes.program import Program
    from rtaccel.runtime.execute import Executor


class BoundCalls:
    """Runs what was bound. The model may take other weights: then its executor is another one, and the calls are bound anew."""

    def __init__(
        self, executor: Callable[[], Executor], run: Callable[..., Any], inputs: tuple[Any, ...], out: Any
    ) -> None:
        """executor: the one that the model has now. run: the model's own, for what cannot be bound. inputs, out: as in
        `CompiledModel.run`, which has just taken them."""
        self._now, self._run, self._inputs, self._out = executor, run, inputs, out
        self._executor: Executor | None = None
        self._calls: tuple[Callable[[], Any], ...] | None = None
        self._bind()

    def _bind(self) -> None:
        self._executor = self._now()
        self._calls = None
        if self._executor.schedules is not None:
            self._calls = bound(self._executor, pytree.tree_leaves(self._inputs), pytree.tree_leaves(self._out))

    def __call__(self) -> None:
        if self._now() is not self._executor:
            self._bind()
        if self._calls is None:
            self._run(*self._inputs, out=self._out)
            return
        for call in self._calls:
            call()


def flat_results(program: Program) -> int | None:
    """How many results a model gives that takes tensors and gives one tensor or a tuple of them; None for other nestings."""
    args, kwargs = program.in_spec.children()
    given, returned = args.children(), program.out_spec
    if kwargs.num_children or not all(child.is_leaf() for child in given):
        return None
    if returned.is_leaf():
        return 1
    parts = returned.children()
    # One in a tuple is left to the general way: it is no bare tensor.
    return len(parts) if returned.type is tuple and len(parts) > 1 and all(p.is_leaf() for p in parts) else None
