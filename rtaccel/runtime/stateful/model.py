"""A compiled model that keeps the state of the model it came from, in its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.kept_states import KeptSkeleton, KeptState
from rtaccel.convert.passes.program import Program
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import operator
from rtaccel.core.stage import Value
from rtaccel.core.traits import Role
from rtaccel.nn.check import describe, is_freed
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu.graph_stream import beginnings
from rtaccel.runtime.state.buffers import STRUCTURE, State
from rtaccel.runtime.state.native_past import ENDING, loaded, row_bytes, saved
from rtaccel.runtime.steps.executor import Executor


class StatefulModel(CompiledModel):
    """A compiled model with the state that the model kept in buffers or attributes. Each call goes on from the one before.

    It takes tensors of the example's shapes, float32 [batch, ...] or int64, with the example's batch. Raises ShapeError for
    others, and has not moved then.

    The first call starts from what the model held when it was compiled, and so does the first one after `reset()`.
    `state_dict()` has the state under the model's own names, in its shapes and dtypes. `load_state_dict` of these names alone,
    with strict=False, sets it. `run` and bound calls go on with the same state. A copy by `copy.deepcopy` goes on by itself.

    A NaN in x stays in the state as long as in the model. Where the model is int8, results are NaN from then on, until `reset()`.
    """

    def reset(self) -> None:
        """The state becomes what it was when the model was compiled."""
        self._plan().reset(0, 1)

    def _plan(self) -> Any:
        return self._executor.steps[0].plan

    def _put(self, executor: Executor, program: Program, state: State) -> None:
        """On a GPU what a reset gives is beside the kernels, and changes with the weights."""
        super()._put(executor, program, state)
        if not executor.steps[0].native:
            self._plan().begin(beginnings(program.stages))

    # -- the state by the model's own names

    def _kept(self) -> tuple[KeptState, ...]:
        source = self._program.source
        assert isinstance(source, KeptSkeleton)
        return source.keeping.kept

    def _key(self, name: str) -> str:
        """In the state dict: the model's own name, where it is none of this library's."""
        return f"states.{name}" if name.split(".")[0] in (*self._modules, STRUCTURE, "states") else name

    def _places(self) -> dict[str, tuple[int, Value]]:
        """By the value of each state: where its bytes begin among those that the plan saves, in the order in which stages name
        them."""
        names = {value.name for value in _values(self._program).values()}
        found: dict[str, tuple[int, Value]] = {}
        at = 0
        for stage in self._program.stages:
            for value in (*stage.inputs, *stage.outputs):
                if value.name in names and value.name not in found:
                    found[value.name] = at, value
                    at += value.steps * row_bytes(value.width, getattr(torch, value.dtype))
        return found

    def _states(self) -> dict[str, Tensor]:
        """Name in the state dict -> a copy of the state, as the model has it. Real numbers are NaN where int8 could not hold what
        they were made of."""
        past, places, values = bytes(self._plan().save_state()), self._places(), _values(self._program)
        marked = ENDING.unpack(past[-ENDING.size :])[0] != 0
        found = {}
        for kept in self._kept():
            at, value = places[values[kept.name].name]
            dtype = getattr(torch, value.dtype)
            end = at + value.steps * row_bytes(value.width, dtype)
            tensor = loaded(past[at:end], value.steps, value.width, dtype).reshape(kept.shape).to(kept.dtype)
            found[self._key(kept.name)] = tensor.fill_(torch.nan) if marked and tensor.is_floating_point() else tensor
        return found

    def _write(self, states: Mapping[str, Tensor]) -> None:
        """Sets those that are given; the mark of a NaN is gone where any is."""
        if not states:
            return
        past, places, values = bytearray(self._plan().save_state()), self._places(), _values(self._program)
        for kept in self._kept():
            given = states.get(self._key(kept.name))
            if given is None:
                continue
            at, value = places[values[kept.name].name]
            rows = saved(given.to(getattr(torch, value.dtype)).reshape(value.steps, value.width))
            past[at : at + len(rows)] = rows
        _, behind, tick = ENDING.unpack(past[-ENDING.size :])
        past[-ENDING.size :] = ENDING.pack(0, behind, tick)
        self._plan().load_state(bytes(past))

    # -- the state dict

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update((prefix + key, tensor) for key, tensor in self._states().items())

    def _extra(self) -> dict[str, Any]:
        return {self._key(kept.name): None for kept in self._kept()}

    def _past(self, given: Mapping[str, Any]) -> bytes | None:
        """Checked here, and written once there is a plan for it."""
        now = self._states()
        for kept in self._kept():
            key = self._key(kept.name)
            if key in given:
                now[key] = _fitting(key, given[key], kept)
        self._wanted: dict[str, Tensor] | None = now
        return None

    def _install(self, program: Program, state: State, past: bytes | None = None) -> None:
        wanted = self.__dict__.pop("_wanted", None)
        super()._install(program, state, past)
        if wanted is not None:
            self._write(wanted)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As a compiled model's; the next call goes on from the state in it, or from where it was where there is none.

        Raises FormatError, with nothing changed, for a state of another shape or dtype.
        """
        return super().load_state_dict(state_dict, strict, assign)

    def __deepcopy__(self, memo: dict[int, Any]) -> StatefulModel:
        made = super().__deepcopy__(memo)
        assert isinstance(made, StatefulModel)
        made._plan().load_state(self._plan().save_state())
        return made

    def _takes(self) -> str:
        kept = self._kept()
        size = sum(k.initial.numel() * k.dtype.itemsize for k in kept)
        return f"state: {size} bytes in {len(kept)} buffer{'s' * (len(kept) != 1)}; {super()._takes()}"


def _values(program: Program) -> dict[str, Value]:
    """By the name of each state: the value that it is in the plan."""
    keeping = (s for s in program.stages if operator(s.op).role is Role.KEEP)
    return {stage.name: stage.outputs[0] for stage in keeping}


def _fitting(key: str, given: Any, kept: KeptState) -> Tensor:
    if (
        isinstance(given, Tensor) and tuple(given.shape) == kept.shape and given.dtype == kept.dtype
        and given.layout is torch.strided and given.device.type != "meta" and not is_freed(given)
    ):  # fmt: skip
        return given.detach().cpu()
    expected = f"{str(kept.dtype).removeprefix('torch.')}{list(kept.shape)}, the state of the model"
    got = f"{key} {describe(given)}"
    raise FormatError(
        "load_state_dict", got, expected, "Load the state of the same model, compiled for the same batch."
    )
