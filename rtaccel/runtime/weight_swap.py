"""Weights that change while a compiled model runs: checked and packed beside it, exchanged between two calls."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.nn.check import copied
from rtaccel.plan.group import StagedPlan
from rtaccel.runtime.gpu.exchange import Exchange
from rtaccel.runtime.gpu.graph import GraphPlan
from rtaccel.runtime.gpu.persistent import PersistentPlan
from rtaccel.runtime.state.buffers import STRUCTURE, State, keys_of
from rtaccel.runtime.steps.executor import Executor
from rtaccel.runtime.steps.planned import build_executor
from rtaccel.runtime.steps.step import Step

if TYPE_CHECKING:
    from rtaccel.convert.passes.program import Program
    from rtaccel.runtime.options import Options

_PAST = "_extra_state"
_SCALES = ("scale", "zero_point", "attr")

Packed = tuple[Step, Callable[[], bool], Callable[[], bool]]
"""The step with new weights, what exchanges them, and what exchanges them back."""


@dataclass(frozen=True)
class WeightSwap:
    """What an exchange of weights was. digest: sha256 of the new tensors, in hex. check_ms, pack_ms: what it took beside the
    running model. tensors: how many."""

    digest: str
    check_ms: float
    pack_ms: float
    tensors: int

    def __str__(self) -> str:
        took = f"checked in {self.check_ms:.2f} ms, packed in {self.pack_ms:.2f} ms"
        return f"{self.tensors} tensors, sha256 {self.digest[:16]}, {took}, exchanged when the next call begins"


class Swappable:
    """`swap` and `rollback` of a compiled model. Everything here may run in another thread than the calls."""

    _executor: Executor
    _program: Program
    _state: State
    _options: Options
    _verified: str
    _before_swap: tuple[Executor, Program, State, str, Callable[[], bool]] | None = None
    _extra: Callable[[], dict[str, Any]]

    def swap(self, source: Any) -> WeightSwap:
        """Other weights while it runs, from any thread: checked and packed beside it, exchanged when the next call begins.

        source: a state dict of a model of the same structure (a CompiledModel gives its own), a compiled model, or the path of a
            safetensors file with such a state. The past of streams in it is not used: streams go on with theirs.

        Bound calls, `run` and a loop go on with the new weights, each call wholly with the old or wholly with the new ones.
        Shapes, scheme and static scales must be those of this model. On a GPU the weights are copied into the memory that the
        kernels read, between two calls on its stream: nothing is captured anew. A persistent kernel takes them with the
        message of its next call, and a stream goes on with its past.

        Raises FormatError, with nothing changed, where the weights do not fit; UnsupportedProblem for a model that is none of
        one native call on the CPU, one CUDA graph or chain of kernels on a GPU, or one persistent kernel.

        Example:
            >>> import torch, rtaccel as rt
            >>> net = torch.nn.Linear(4, 2).eval()
            >>> fast, x = rt.compile(net, torch.randn(1, 4)), torch.randn(1, 4)
            >>> state = {k: v * 2 if "weight" in k or "bias" in k else v for k, v in fast.state_dict().items()}
            >>> report, y = fast.swap(state), fast(x)
            >>> fast.rollback(); bool(torch.allclose(y, 2 * fast(x)))
            True
        """
        start = time.perf_counter()
        step = self._swappable("swap")
        given = _tensors_of(source)
        own = {_PAST, *self._extra()}
        given = {key: value for key, value in given.items() if key not in own}
        try:
            keys_of({k: v for k, v in self._state.tensors.items() if k != STRUCTURE or k in given}, given, strict=True)
            self._check_means(given)
            self._state.check(self._program, given)
        except FormatError as error:
            raise FormatError("swap", error.got, error.expected, error.next_step) from error
        state = self._state.with_tensors({key: copied(given[key]) for key in self._state.entries})
        checked = time.perf_counter()
        program = state.program(self._program)
        packing = self._packed if step.native else self._packed_on_device
        if isinstance(step.plan, PersistentPlan):
            packing = self._packed_to_stay
        fresh, exchange, undo = packing(step, state, program)
        packed = time.perf_counter()
        before = (self._executor, self._program_of(self._state), self._state, self._verified, undo)
        if not exchange():
            raise FormatError("swap", "a plan of other stages", "the same kernels", "Compile the model anew.")
        self._put(Executor(program, [replace(fresh, plan=step.plan)], self._options), program, state)
        self._verified = "the weights were swapped: what was verified were others"
        self._before_swap = before
        digest = hashlib.sha256()
        for key in sorted(self._state.entries):
            digest.update(key.encode())
            digest.update(state.tensors[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        entries = len(self._state.entries)
        return WeightSwap(digest.hexdigest(), 1e3 * (checked - start), 1e3 * (packed - checked), entries)

    def rollback(self) -> None:
        """The weights before the last `swap`, exchanged in the same way; once more after a call, and those of the swap are back.
        A swap that no call has met is taken back for good. Raises FormatError where there is nothing to go back to."""
        self._swappable("rollback")
        if self._before_swap is None or not self._before_swap[4]():
            raise FormatError("rollback", "a model without a swap", "weights from before one", "Nothing was changed.")
        executor, program, state, verified, undo = self._before_swap
        self._before_swap = (self._executor, self._program, self._state, self._verified, undo)
        self._put(executor, program, state)
        self._verified = verified

    @property
    def swap_pending(self) -> bool:
        """Whether weights wait for the next call."""
        steps = self._executor.steps
        waits = len(steps) == 1 and (steps[0].native or isinstance(steps[0].plan, PersistentPlan))
        return waits and bool(steps[0].plan.pending)

    _sealed: bool
    _locked: bool

    def _program_of(self, state: State) -> Program:
        """The program with copies of a state's tensors, in memory that no kernel reads."""
        return state.with_tensors({key: copied(state.tensors[key]) for key in state.entries}).program(self._program)

    def _packed(self, step: Step, state: State, program: Program) -> Packed:
        """For a native plan: a second one, whose packed weights it takes over at the next call."""
        executor = build_executor(program, self._options)
        if self._sealed:
            executor.prefault(self._locked)
        fresh = executor.steps[0]
        return fresh, lambda: bool(step.plan.swap(fresh.plan)), lambda: bool(step.plan.rollback())

    def _packed_on_device(self, step: Step, state: State, program: Program) -> Packed:
        """For kernels of a GPU: the same ones with the new weights, to exchange contents with."""
        options = replace(self._options, mode="eager") if self._options.mode == "graph" else self._options
        fresh = build_executor(self._program_of(state), options).steps[0]
        both = Exchange(step.plan._steps, fresh.plan._steps)

        def flip() -> bool:
            both.flip(step.plan._order)
            return True

        return fresh, flip, flip

    def _packed_to_stay(self, step: Step, state: State, program: Program) -> Packed:
        """For a persistent kernel: packed as it reads them, and named by the message of the next call."""
        plan, source = step.plan, program.steps[0]
        both = [plan.weights.latest, plan.packed(source.group)]  # type: ignore[union-attr]

        def flip() -> bool:
            plan.exchange(both[1])
            both.reverse()
            return True

        return replace(step, source=source), flip, flip

    def _swappable(self, op: str) -> Step:
        executor = self._executor
        plan = executor.direct
        on_device = isinstance(plan, GraphPlan) or (type(plan) is StagedPlan and self._options.device == "cuda")
        on_device = on_device or isinstance(plan, PersistentPlan)
        if plan is None or executor.joined is not None or not (executor.steps[0].native or on_device):
            raise UnsupportedProblem(
                op, f"{self._options.title}: {len(executor.steps)} steps on {self._options.device}",
                "one native call on the CPU, one chain of kernels or one persistent kernel on a GPU",
                "Use load_state_dict while nothing calls it.",
            )  # fmt: skip
        return executor.steps[0]

    def _put(self, executor: Executor, program: Program, state: State) -> None:
        self._executor, self._program, self._state = executor, program, state
        self._direct = executor.direct
        self._modules.update(state.tree())

    _modules: dict[str, nn.Module | None]
    _direct: Any

    def _check_means(self, given: Mapping[str, Any]) -> None:
        """Raises FormatError where numbers mean something else: another scheme, or other static scales."""
        own = self._state
        bad = [
            key for key, entry in own.entries.items()
            if entry.kind in _SCALES and not (isinstance(given[key], Tensor) and torch.equal(given[key], own.tensors[key]))
        ]  # fmt: skip
        if bad:
            named = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
            raise FormatError(
                "swap", f"another {named}", "the static scales of this model", "Calibrate both on the same data."
            )
        structure = given.get(STRUCTURE)
        if structure is not None and not (
            isinstance(structure, Tensor) and torch.equal(structure, own.tensors[STRUCTURE])
        ):
            raise FormatError("swap", "a state of another structure or scheme", "this model's", "Compile that model.")


def _tensors_of(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Swappable):
        found: Mapping[str, Any] = source.state_dict()  # type: ignore[attr-defined]
        return found
    if isinstance(source, (str, os.PathLike)):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(source)
        except (OSError, SafetensorError) as error:
            raise FormatError("swap", f"{source}: {error}", "a safetensors file", "Save state_dict() again.") from error
    if isinstance(source, Mapping):
        return source
    raise FormatError(
        "swap", type(source).__name__, "a state dict, a compiled model or a safetensors file",
        "Compile the model with the same scheme first.",
    )  # fmt: skip
