"""Binds the steps of a program to tensors: what is left to do at a call are calls without arguments.

Every value gets memory of its own once. A call that gives a view of memory that is there is made here and never again, and
so is one that reads nothing but constants and sizes. What a group reads is written contiguous from the start.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import sized_by_numbers
from rtaccel.convert.frontend.nodes import constant_value
from rtaccel.convert.passes.program import FallbackStep, SubgraphStep
from rtaccel.nn.check import dense
from rtaccel.runtime.memory import seen_as
from rtaccel.runtime.schedule.torch_call import bound_call

if TYPE_CHECKING:
    from rtaccel.runtime.steps.executor import Executor
    from rtaccel.runtime.steps.step import Step

_SHAPES = ("sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "size", "stride", "numel", "dim")


class Unbindable(Exception):
    """A program whose calls cannot be bound: shapes or numbers of Python depend on the numbers in tensors."""


@dataclass(frozen=True)
class Call:
    """One call without arguments. step: what it runs; None for a copy. name: for profiles."""

    name: str
    run: Callable[[], Any]
    step: Step | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Binder:
    """One use: `bind` gives the tensors of the results, and `calls` is what computes them from the arguments."""

    def __init__(self, executor: Executor, leaves: Sequence[Any]) -> None:
        """leaves: the flattened arguments of the calls to come: the tensors themselves, contiguous and without gradients."""
        self.executor, self.program = executor, executor.program
        self.calls: list[Call] = []
        self._env: dict[str, Any] = {**executor.constants, **dict(zip(self.program.inputs, leaves))}
        self._fixed = set(executor.constants)
        self._fixed |= {n for n, leaf in zip(self.program.inputs, leaves) if not isinstance(leaf, Tensor)}
        self._seen: dict[str, Tensor] = {}
        self._contiguous: dict[str, Tensor] = {}
        self._bases = {view.base for view in self.program.views.values()}
        self._bases |= {name for step in self.program.steps if isinstance(step, SubgraphStep) for name in step.reads}

    def bind(self) -> list[Any]:
        """Runs every step once, on what the arguments hold now. Raises Unbindable, and what the steps raise."""
        for step in self.executor.steps:
            if isinstance(step.source, FallbackStep):
                self._torch(step, step.source.node)
            else:
                self._group(step, step.source)
        return [self._result(o) if isinstance(o, str) else constant_value(o) for o in self.program.outputs]

    def _result(self, name: str) -> Any:
        stored = name in self._env and name not in self.program.casts
        return self._env[name] if stored else self._value(name)

    # -- values --------------------------------------------------------------------------------------------------------

    def _emit(self, name: str, run: Callable[[], Any], fixed: bool) -> None:
        run()
        if not fixed:
            self.calls.append(Call(name, run))

    def _dense(self, name: str) -> Any:
        """A value as a plan reads it: contiguous."""
        value = self._env[name]
        if not isinstance(value, Tensor) or dense(value).data_ptr() == value.data_ptr():
            return value
        if name not in self._contiguous:
            made = self._contiguous[name] = torch.empty(value.shape, dtype=value.dtype, device=value.device)
            self._emit(f"{name} (contiguous)", partial(made.copy_, value), name in self._fixed)
        return self._contiguous[name]

    def _value(self, name: str) -> Any:
        """A value by its name in the graph: computed, or a stored one seen in another way, as `Executor._value` gives it."""
        view = self.program.views.get(name)
        if view is None:
            return self._env[name]
        if name in self._seen:
            return self._seen[name]
        stored, fixed = self._dense(view.base), view.base in self._fixed
        flat, shape, backwards = seen_as(view, stored, self.program.batched)
        shaped = flat.reshape(shape)
        if backwards or (shaped.numel() and not _aliases(shaped, (flat,))):
            made = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device)
            run = (lambda: made.copy_(flat.flip(backwards))) if backwards else partial(made.copy_, flat)
            self._emit(f"{name} (rearranged)", run, fixed)
            shaped = made.view(shape)
        dtype = self.program.casts.get(name)
        if dtype is not None:
            cast = torch.empty(shaped.shape, dtype=dtype, device=shaped.device)
            self._emit(f"{name} (as {str(dtype).removeprefix('torch.')})", partial(cast.copy_, shaped), fixed)
            shaped = cast
        if fixed:
            self._fixed.add(name)
        self._seen[name] = shaped
        return shaped

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _torch(self, step: Step, node: fx.Node) -> None:
        target: Any = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._value(n.name))
        fixed = all(n.name in self._fixed for n in node.all_input_nodes)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if isinstance(target, torch._ops.OpOverload):
            if sized_by_numbers(target) or torch.Tag.data_dependent_output in target.tags or target._schema.is_mutable:
                raise Unbindable(step.name)
            fixed = fixed and torch.Tag.nondeterministic_seeded not in target.tags
            fixed = fixed or target._schema.name.split("::")[-1] in _SHAPES
        elif target is not operator.getitem and (given or not callable(target) or isinstance(target, _HIGHER_ORDER)):
            raise Unbindable(step.name)
        result = target(*args, **kwargs)
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        filled = [t for t in made if t.numel()]
        if target is operator.getitem or fixed or (filled and all(_aliases(t, given) for t in filled)):
            self._env[node.name] = result
            if fixed:
                self._fixed.add(node.name)
            return
        if not made or any(_aliases(t, given) for t in filled) or len(made) != len(_parts(result)):
            raise Unbindable(step.name)
        if isinstance(result, Tensor) and node.name in self._bases:
            result = result.contiguous()
        self._env[node.name] = result
        outs = _parts(result)
        run = bound_call(target, args, kwargs, result if isinstance(result, Tensor) else outs)
        run()
        self.calls.append(Call(step.name, run, step, tuple(given), outs))

    def _group(self, step: Step, source: SubgraphStep) -> None:
        inputs = tuple(self._dense(name) for name in source.reads)
        results = step.plan.call_flat(inputs)
        if results is None:
            raise Unbindable(step.name)
        outs = results if isinstance(results, tuple) else (results,)
        self._env.update(zip(source.writes, outs))
        self.calls.append(Call(step.name, group_call(step, inputs, outs), step, inputs, outs))


_HIGHER_ORDER = torch._ops.HigherOrderOperator


def group_call(step: Step, inputs: tuple[Tensor, ...], outs: tuple[Tensor, ...]) -> Callable[[], Any]:
    """A group of stages bound to its tensors. Raises Unbindable where they do not fit as they lie."""
    target = outs if len(outs) > 1 else outs[0]
    if not step.native:
        return partial(step.plan.run, inputs, target)
    from rtaccel._native import Bound

    try:
        bound: Callable[[], Any] = Bound(step.plan, inputs, target)
    except ValueError as error:
        raise Unbindable(step.name) from error
    return bound


def _parts(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _aliases(tensor: Tensor, given: Iterable[Tensor]) -> bool:
    """Whether the numbers of a tensor are those of another one."""
    place = tensor.untyped_storage().data_ptr()
    return any(t.numel() and t.untyped_storage().data_ptr() == place for t in given)
