"""A program that takes states as arguments and gives new ones becomes one that keeps them: values that live in its plan.

Each state is a value of the plan that stages read, and at the end a stage writes what the call made of it there. Whatever else
reads a state has read it by then: a new state, or a result, that is a state itself or a part of one is copied first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.frontend.layout import offsets
from rtaccel.convert.passes.program import Program, Source, SubgraphStep
from rtaccel.core.batch import BatchRange
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import with_role
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.plan.group import Subgraph


@dataclass(frozen=True)
class KeptState:
    """name: of the buffer or attribute. shape, dtype: as the model has it. initial: before the first call, as the plan keeps it.
    needed: whether anybody reads it; a note that a model leaves in an attribute is not kept."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    initial: Tensor
    needed: bool = True


@dataclass(frozen=True)
class Keeping:
    """states: what is kept, in the order of the last arguments and results. in_spec, out_spec: how those of the model are nested.
    batch: the sizes that a call may have."""

    states: tuple[KeptState, ...]
    in_spec: Any
    out_spec: Any
    batch: BatchRange

    @property
    def kept(self) -> tuple[KeptState, ...]:
        return tuple(state for state in self.states if state.needed)


@dataclass(frozen=True)
class KeptSkeleton:
    """What a program with states was lowered from."""

    source: Source
    keeping: Keeping

    def decisions(self) -> dict[str, Any]:
        """Of every layer, as JSON holds it."""
        return self.source.decisions()

    def relowered(self, decisions: Any) -> Program | None:
        """The program with these decisions; None where they are not those of this model's layers."""
        made = self.source.relowered(decisions)
        return None if made is None else with_states_kept(made, self.keeping)


def with_states_kept(program: Program, keeping: Keeping) -> Program:
    """Raises NotKept where calls fall back to PyTorch, or a state is made in a way that no stage computes."""
    steps = program.steps
    if len(steps) != 1 or not isinstance(steps[0], SubgraphStep):
        names = ", ".join(dict.fromkeys(s.name for s in steps if not isinstance(s, SubgraphStep))) or "no stage"
        raise _refused(f"calls that fall back to PyTorch: {names}", "See docs/reference/operators.md.")
    return _Rewrite(program, steps[0], keeping).program()


class NotKept(UnsupportedProblem):
    """State that no stage of a plan reads and writes as the model does."""


def _refused(got: str, next_step: str) -> NotKept:
    return NotKept("compile", f"a model with state of its own and {got}", "native stages only", next_step)


class _Rewrite:
    """One use."""

    def __init__(self, program: Program, step: SubgraphStep, keeping: Keeping) -> None:
        count = len(keeping.states)
        self._program, self._step, self._keeping = program, step, keeping
        self._names, self._new = program.inputs[-count:], program.outputs[-count:]
        self._stages = list(step.group.stages)
        ports = (*step.group.inputs, *step.group.outputs)
        self._values = {v.name: v for stage in self._stages for v in (*stage.inputs, *stage.outputs)}
        self._values |= {port.value.name: port.value for port in ports}
        self._computed = {v.name for stage in self._stages for v in stage.outputs}
        self._made = 0

    def program(self) -> Program:
        program, step, keeping = self._program, self._step, self._keeping
        count = len(keeping.states)
        ends = [e for e in zip(self._names, self._new, keeping.states) if e[2].needed]
        states = [self._state(name, kept) for name, _, kept in ends]
        outputs: list[Any] = []
        ports: list[GraphIO] = []
        for name in program.outputs[:-count]:
            port = self._result(name, {p.value.name for p in ports})
            outputs.append(name if port is None else port.value.name)
            ports += [port] if port is not None else []
        sources = [self._source(new, state) for (_, new, _), state in zip(ends, states)]
        op = with_role(Role.KEEP).name
        for source, state, kept in zip(sources, states, keeping.kept):
            tensors = {"initial": kept.initial.reshape(state.steps, state.width)}
            self._stages.append(Stage(op, kept.name, (source,), (state,), tensors))
        edges = [(r, p) for r, p in zip(step.reads, step.group.inputs) if r not in self._names]
        if not edges or not ports:
            raise _refused("no tensor as an argument or a computed result", "Take and return a tensor.")
        group = Subgraph(tuple(self._stages), tuple(p for _, p in edges), tuple(ports))
        constant = {o for o in outputs if isinstance(o, str)} - {p.value.name for p in ports}
        return replace(
            program,
            steps=(SubgraphStep(group, tuple(r for r, _ in edges), tuple(p.value.name for p in ports)),),
            inputs=program.inputs[:-count],
            arguments=program.arguments[:-count],
            outputs=tuple(outputs),
            views={name: view for name, view in program.views.items() if name in constant},
            casts={name: dtype for name, dtype in program.casts.items() if name in constant},
            batch=keeping.batch,
            in_spec=keeping.in_spec,
            out_spec=keeping.out_spec,
            source=None if program.source is None else KeptSkeleton(program.source, keeping),
        )

    def _state(self, name: str, kept: KeptState) -> Value:
        """The value that a state is: in the rows in which stages read it."""
        dtype = str(kept.initial.dtype).removeprefix("torch.")
        return self._values.get(name) or Value(name, kept.initial.numel(), dtype)

    def _source(self, name: Any, state: Value) -> Value:
        """What a state becomes, in its own rows and dtype, as a value that no later stage writes over."""
        base, index = self._seen(name)
        if isinstance(base, Tensor):
            return self._constant(base, state)
        same = (base.dtype, base.steps, base.width) == (state.dtype, state.steps, state.width)
        if same and _is_all(index, base) and base.name not in self._names:
            return base
        return self._copied(base, index, replace(state, name=self._new_name(f"{state.name}:next")))

    def _result(self, name: Any, taken: set[str]) -> GraphIO | None:
        """A result of the model as one of the plan; None for a constant."""
        if not isinstance(name, str):
            return None
        base, index = self._seen(name)
        if isinstance(base, Tensor):
            return None
        view, dtype = self._program.views.get(name), self._program.casts.get(name)
        ports = dict(zip(self._step.writes, self._step.group.outputs))
        own = ports.get(name)
        shape = (
            view.shape
            if view is not None and (dtype is not None or own is None)
            else own.trailing
            if own
            else base.shape
        )
        if dtype is None and base.name in self._computed and base.name not in taken and _is_all(index, base):
            return GraphIO(base, 0, tuple(shape))
        kind = base.dtype if dtype is None else str(dtype).removeprefix("torch.")
        made = Value(self._new_name(f"{name}:returned"), prod(shape), kind)
        return GraphIO(self._copied(base, index, made), 0, tuple(shape))

    def _seen(self, name: Any) -> tuple[Value | Tensor, np.ndarray[Any, Any]]:
        """The value, or constant, that a name of the graph is seen in, and which of its elements."""
        ports = {*self._step.writes} - {*self._program.casts}
        view = None if name in ports else self._program.views.get(name)
        base = name if view is None else view.base
        if base in self._program.constants:
            tensor = self._program.constants[base].contiguous().reshape(-1)
            return tensor if view is None else tensor[torch.from_numpy(offsets(view).reshape(-1))], np.arange(0)
        if base not in self._values:
            raise _refused(f"a result that no stage computes ({name})", "Compute it from an argument.")
        value = self._values[base]
        return value, offsets(view).reshape(-1) if view is not None else np.arange(value.steps * value.width)

    def _copied(self, base: Value, index: np.ndarray[Any, Any], made: Value) -> Value:
        """Elements of a value as one of their own."""
        where = made.name
        if base.dtype in ("float32", "int64") and not _is_all(index, base):
            part = made if base.dtype == made.dtype else Value(f"{where}:part", len(index), base.dtype)
            attrs: dict[str, Any] = {"index": tuple(int(i) for i in index)}
            self._stages.append(Stage(with_role(Role.GATHER).name, where, (base,), (part,), attrs=attrs))
            if part is made:
                return made
            base = part
        elif not _is_all(index, base):
            raise _refused(f"a part of an argument in {base.dtype} as a result", "Convert it to int64.")
        program = ("truth x0",) if made.dtype == "bool" else ("copy x0",)
        attrs = {"program": program, "dims": (made.steps * made.width,), "places": ((0, 1),)}
        role = Role.FORMULA if base.dtype == made.dtype == "float32" else Role.WHOLE
        self._stages.append(Stage(with_role(role).name, where, (base,), (made,), attrs=attrs))
        return made

    def _constant(self, tensor: Tensor, state: Value) -> Value:
        """A state that becomes the same numbers at each call, as a stage makes them."""
        made = replace(state, name=self._new_name(f"{state.name}:next"))
        numbers = tensor.reshape(-1).to(getattr(torch, state.dtype))
        count = state.steps * state.width
        role = Role.FORMULA if state.dtype == "float32" else Role.WHOLE
        attrs = {
            "program": ("copy c0",),
            "dims": (count,),
            "places": ((0, 1), (0, 1 if numbers.numel() == count else 0)),
        }
        self._stages.append(Stage(with_role(role).name, made.name, (state,), (made,), {"c0": numbers}, attrs))
        return made

    def _new_name(self, wanted: str) -> str:
        self._made += 1
        return f"{wanted}.{self._made}" if wanted in self._values else wanted


def _is_all(index: np.ndarray[Any, Any], value: Value) -> bool:
    """Whether it is all elements of a value, in order."""
    count = value.steps * value.width
    return len(index) == count and bool((index == np.arange(count)).all())
