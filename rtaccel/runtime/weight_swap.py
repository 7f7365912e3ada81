"""Weights that change while a compiled model runs: checked and packed beside it, exchanged between two calls."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.nn.check import copied
from rtaccel.runtime.execute import Executor, build_executor
from rtaccel.runtime.state.buffers import STRUCTURE, State, keys_of

if TYPE_CHECKING:
    from rtaccel.convert.passes.program import Program
    from rtaccel.runtime.options import Options

_PAST = "_extra_state"
_SCALES = ("scale", "zero_point", "attr")


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
    _before_swap: tuple[Executor, Program, State, str] | None = None

    def swap(self, source: Any) -> WeightSwap:
        """Other weights while it runs, from any thread: checked and packed beside it, exchanged when the next call begins.

        source: a state dict of a model of the same structure (a CompiledModel gives its own), a compiled model, or the path of a
            safetensors file with such a state. The past of streams in it is not used: streams go on with theirs.

        Bound calls, `run` and a loop go on with the new weights, each call wholly with the old or wholly with the new ones.
        Shapes, scheme and static scales must be those of this model. Raises FormatError, with nothing changed, where they
        are not; UnsupportedProblem for a model that is not one native call on the CPU.

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
        given = {key: value for key, value in given.items() if key != _PAST}
        try:
            keys_of({k: v for k, v in self._state.tensors.items() if k != STRUCTURE or k in given}, given, strict=True)
            self._check_means(given)
            self._state.check(self._program, given)
        except FormatError as error:
            raise FormatError("swap", error.got, error.expected, error.next_step) from error
        state = self._state.with_tensors({key: copied(given[key]) for key in self._state.entries})
        checked = time.perf_counter()
        program = state.program(self._program)
        executor = build_executor(program, self._options)
        if self._sealed:
            executor.prefault(self._locked)
        packed = time.perf_counter()
        before = (self._executor, self._program, self._state, self._verified)
        if not step.plan.swap(executor.steps[0].plan):
            raise FormatError("swap", "a plan of other stages", "the same kernels", "Compile the model anew.")
        self._put(Executor(program, [replace(executor.steps[0], plan=step.plan)], self._options), program, state)
        self._verified = "the weights were swapped: what was verified were others"
        self._before_swap = before
        digest = hashlib.sha256()
        for key in sorted(self._state.entries):
            digest.update(key.encode())
            digest.update(state.tensors[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        entries = len(self._state.entries)
        return WeightSwap(digest.hexdigest(), 1e3 * (checked - start), 1e3 * (packed - checked), entries)

    def rollback(self) -> None:
        """Back to the weights before the last `swap`, in the same way. Raises FormatError where there was none."""
        step = self._swappable("rollback")
        if self._before_swap is None or not step.plan.rollback():
            raise FormatError("rollback", "a model without a swap", "weights from before one", "Nothing was changed.")
        executor, program, state, verified = self._before_swap
        self._before_swap = (self._executor, self._program, self._state, self._verified)
        self._put(executor, program, state)
        self._verified = verified

    @property
    def swap_pending(self) -> bool:
        """Whether weights wait for the next call."""
        steps = self._executor.steps
        return len(steps) == 1 and steps[0].native and bool(steps[0].plan.pending)

    _sealed: bool
    _locked: bool

    def _swappable(self, op: str) -> Any:
        executor = self._executor
        if executor.direct is None or not executor.steps[0].native:
            raise UnsupportedProblem(
                op, f"{self._options.title}: {len(executor.steps)} steps on {self._options.device}",
                "one native call on the CPU", "Use load_state_dict while nothing calls it.",
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
        structure = given.get(STRUCTURE)
        if structure is not None and not (
            isinstance(structure, Tensor) and torch.equal(structure, own.tensors[STRUCTURE])
        ):
            raise FormatError("swap", "a state of another structure or scheme", "this model's", "Compile that model.")
        for key, entry in own.entries.items():
            value = given[key]
            if entry.kind in _SCALES and not (isinstance(value, Tensor) and torch.equal(value, own.tensors[key])):
                raise FormatError(
                    "swap", f"another {key}", "the static scales of this model", "Calibrate both on the same data."
                )


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
