"""The call that cascades and anytime answers share: several compiled models behind one native call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.realtime.steps import Port
from rtaccel.runtime.inputs import check_out
from rtaccel.runtime.memory import share_elements
from rtaccel.search.cascade.stages import Stages, fitted_input


class Staged:
    """Stages with their native object. Calls take one tensor and give one, as each of the models does."""

    def __init__(self, op: str, stages: Stages, exits: list[tuple[Any, ...]]) -> None:
        self._stages = stages
        self._answer = stages.output.trailing
        self._features_port = stages.features
        self._ready: set[int] = set()  # numbers of rows that were checked, and prepared for
        heads = [model._executor.steps[0].plan for model in stages.heads]
        try:
            self._native = native.Cascade(stages.plans, heads, exits, list(stages.advance))
        except ValueError as error:
            raise FormatError(op, str(error), "stages that fit together", f"See rt.{op}.") from None

    def __reduce__(self) -> Any:
        """Refused for `pickle` and `copy` alike: its stages are the models that were given, and stay with them."""
        kind = type(self).__name__
        raise UnsupportedProblem(
            "pickle", f"a {kind}, which runs the models it was made of", "files of rt.save, one for each stage",
            f"Make the {kind} of compiled models there.",
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """The answer: a fresh tensor, float32 [batch, ...]. x: as the models take it. Raises as the models do."""
        rows = x.shape[0] if type(x) is Tensor and x.dim() else -1
        if rows in self._ready:  # the usual call: the native side looks at the tensor, and takes it or not
            out = torch.empty((rows, *self._answer), dtype=torch.float32, device="cpu")
            if self._native.run(x, out, self._features(rows), False):
                return out
        x = fitted_input("call", x, self._stages.input)
        out = self._empty(x)
        self._run("call", x, out)
        self._ready.add(len(x))
        return out

    def run(self, x: Tensor, out: Tensor) -> Tensor:
        """Writes the answer into `out`, float32 [batch, ...], and returns it. Raises ShapeError, with `out` untouched, for a
        tensor that does not fit."""
        x = fitted_input("run", x, self._stages.input)
        self._check_out("run", x, out)
        if out.is_contiguous() and not share_elements(x, out):
            self._run("run", x, out)
        else:
            out.copy_(self(x))
        return out

    def bind(self, x: Tensor, out: Tensor, worst: bool = False) -> Callable[[], None]:
        """A call without arguments that reads x and writes `out` in place: every stage in one native call.

        x: as the models take it, contiguous. out: float32 [batch, ...], contiguous, in memory of its own.
        worst: go through all stages, whatever their answers and the time: the longest path, for a budget.

        Raises ShapeError for what does not fit without a copy.
        """
        fitted = fitted_input("bind", x, self._stages.input)
        self._check_out("bind", fitted, out)
        if fitted.data_ptr() != x.data_ptr() or not out.is_contiguous():
            raise ShapeError("bind", "tensors that are strided", "contiguous memory", "Allocate buffers.")
        rows = len(x)
        self._stages.check_rows("bind", rows)
        self._prepare(x)
        try:
            return native.BoundCascade(self._native, x, out, self._features(rows), worst)
        except ValueError:
            raise ShapeError(
                "bind",
                "an out that overlaps the input, or memory that is not aligned",
                "memory of its own",
                "Allocate buffers.",
            ) from None

    @property
    def last_exit(self) -> int | Tensor:
        """The stage that gave the last answer: a number where the call had one row, else int32 [batch]."""
        rows = self._native.rows
        if rows == 1:
            return int(self._native.exit_of_row(0))
        return torch.from_numpy(np.frombuffer(self._native.exits(), np.int32).copy())

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows that each stage answered, since this was made; forced worst paths are not counted."""
        return tuple(self._native.counts)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the logical weights of all models."""
        return sum(model.weight_bytes for model in self._models)

    @property
    def peak_bytes(self) -> int:
        """Most bytes that the plans of all models hold: packed weights, scratch and states."""
        return sum(model.peak_bytes for model in self._models)

    def reset(self) -> None:
        """All streams of all stages start anew."""
        self._native.reset()

    def loop_step(self, op: str, ports: list[Port]) -> tuple[Any, list[Port], list[Any]]:
        """As a step of an `rt.Loop`, for an input of this (shape, dtype), with or without its batch of one."""
        self._check_loop(op)
        if len(ports) != 1:
            raise ShapeError(op, f"{len(ports)} tensors for a cascade", "one", "Give it one slot.")
        shape, dtype = ports[0]
        sizes = dict.fromkeys([shape, (1, *shape), shape[1:] if shape[:1] == (1,) else shape])
        refused: ShapeError | None = None
        for size in sizes:
            x = torch.zeros(size, dtype=getattr(torch, dtype), device="cpu")
            try:
                x = fitted_input(op, x, self._stages.input)
                self._stages.check_rows(op, len(x))
            except ShapeError as error:
                refused = refused or error
                continue
            y = self._empty(x)
            self._prepare(x)
            step = native.cascade_step(self._native, x, y, self._features(len(x)))
            return step, [(tuple(y.shape), "float32")], [model._executor.steps[0].plan for model in self._stages.all]
        assert refused is not None
        raise refused

    @property
    def _models(self) -> list[Any]:
        return list({id(model): model for model in self._stages.all}.values())

    def _check_loop(self, op: str) -> None:
        """Raises UnsupportedProblem where it cannot run on a thread without the GIL."""

    def _prepare(self, x: Tensor) -> None:
        """Before calls of this many rows."""

    def _empty(self, x: Tensor) -> Tensor:
        return self._stages.empty(self._stages.output, len(x))

    def _features(self, rows: int) -> Tensor | None:
        port = self._features_port
        return None if port is None else self._stages.empty(port, rows)

    def _check_out(self, op: str, x: Tensor, out: Any) -> None:
        check_out(op, out, (self._stages.output,), x.shape[:1], "cpu")

    def _run(self, op: str, x: Tensor, out: Tensor, worst: bool = False) -> None:
        rows = len(x)
        self._stages.check_rows(op, rows)
        self._prepare(x)
        if not self._native.run(x, out, self._features(rows), worst):
            raise UnsupportedProblem(
                op, f"{list(x.shape)}", "a tensor that the plans take", "Please report this input."
            )

    def _profile(self, x: Tensor, rows: int, worst: bool = False) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Calls of `rows` rows each over all of x: (ns of each, exits [calls, rows], answers)."""
        out = self._empty(x)
        calls = len(x) // rows
        if not calls:
            return np.zeros(0), np.zeros((0, rows), np.int32), out
        self._stages.check_rows("report", rows)
        found = self._native.profile(x[:rows], out[:rows], self._features(rows), calls, worst)
        if found is None:
            raise UnsupportedProblem(
                "report", f"{list(x.shape)}", "rows that the plans take", "Please report this input."
            )
        return np.frombuffer(found[0], np.int64), np.frombuffer(found[1], np.int32).reshape(calls, rows), out
