"""A model from a file, run without torch."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rtaccel._native import BoundModel, Model
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.deploy.in_loop import Port, model_step
from rtaccel.deploy.native_errors import typed
from rtaccel.deploy.nesting import described, fixed_in, flattened, lying, nested, tree_of

UNCHECKED, LARGE, IN_PLACE = 1, 2, 4  # as rta_model.h has them
_BITS = {"bfloat16": "uint16"}
"""NumPy has no bfloat16, so an array has its bits."""


class LoadedModel:
    """A model from a file: arrays in, arrays out. It needs no torch.

    `model(*inputs)` gives fresh arrays, `model.run(*inputs, out=y)` writes into y, `model.bind(*inputs, out=y)` checks the arrays
    once and gives the bare call. A stream takes one time step a call, `model.step(x_t)` is the same, and keeps its past.

    Inputs are C-contiguous arrays of the dtype and shape in `model.inputs` (-1: any number of samples): NumPy's, torch's, or
    anything with the buffer protocol or DLPack on the CPU. Nothing is cast or copied. Results are NumPy
    arrays; torch tensors where the first input is one. NumPy has no bfloat16: an array of uint16 has its
    bits. Raises ShapeError for what does not fit, FormatError for an index out
    of range.

    `model.outputs` says how results lie, samples first. A result that the model returns otherwise, such as the last states
    [layers, batch, hidden] of a recurrent layer, or samples that are joined with another dimension, is a view of that;
    `out=` takes such a view too. Samples within what is one dimension (`y.t().flatten()`) are copied, and no `out=` takes them.
    Results that are the same in every call (constants, numbers, None) are no outputs: a call gives them among the others, and C
    does not.

    One instance runs in one thread at a time; a call holds the GIL. Load once for each thread. An `rt.Loop` or an
    `rt.StreamBatcher` runs it on a native thread; until that has ended other calls raise UnsupportedProblem.
    """

    def __init__(
        self, native: Model, metadata: Mapping[str, str], source: str, flags: int, constants: Sequence[Any] = ()
    ) -> None:
        self._native, self._source, self._flags = native, source, flags
        self.metadata = dict(metadata)
        self.inputs = described(native.tensors(False), metadata.get("inputs"))
        self.outputs = described(native.tensors(True), metadata.get("outputs"))
        try:
            self._given = tree_of(metadata.get("arguments") or f"({'.' * len(self.inputs)})", len(self.inputs))
            several = f"({'.' * len(self.outputs)})" if len(self.outputs) > 1 else "."
            self._returned = tree_of(metadata.get("results") or several, len(self.outputs), constants)
            samples, joined = (metadata.get(f"result_{which}") or "" for which in ("samples", "joined"))
            self._lying = lying(samples, joined, [shape for *_, shape in self.outputs])
        except ValueError as error:
            raise FormatError("load", str(error), "the model's own tuples", "Save it again.") from error

    # -- calling

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """float32 (or as `inputs` says) [batch, ...] to fresh arrays [batch, ...]; a tuple where there are several. named: by the
        names in `inputs`."""
        given = self._flat("call", self._in_order(inputs, named) if named else inputs)
        outs = self._fresh(given)
        self._run("call", given, outs)
        return self._nested(given, outs)

    def step(self, *inputs: Any, streams: Sequence[int] | None = None, out: Any = None) -> Any:
        """One time step of a stream: float32 [streams, features] (as `inputs` says) to fresh arrays [streams, outputs].

        streams: numbers of the streams that make it, in any order and none twice; the inputs then have a row for each, and the
            other streams stand still.
        out: float32 [n, outputs] to write into.

        Raises ShapeError for an array that does not fit and for a stream that there is not; then no stream has moved.
        """
        if streams is None:
            return self(*inputs) if out is None else self.run(*inputs, out=out)
        chosen = self._numbers("step", streams)
        if len(set(chosen)) != len(chosen):
            raise ShapeError("step", f"streams {chosen}", "numbers, none twice", "No stream has moved.")
        given = self._flat("step", inputs)
        outs = self._fresh(given, len(chosen)) if out is None else self._outs("step", out)
        self.run_flat(given, outs, chosen)
        if out is not None:
            return out
        return self._nested(given, outs)

    def run_flat(
        self, inputs: tuple[Any, ...], outs: tuple[Any, ...], streams: list[int] | None = None, release: bool = False
    ) -> None:
        """A call on the arrays one after the other, in the order of `inputs` and `outputs`, float32 [batch, ...] as these say.

        streams: as in `step`.
        release: without the GIL, so that other threads of Python go on; handing it over costs some time.

        Raises ShapeError, with nothing written, for arrays that do not fit.
        """
        try:
            if streams is None:
                self._native.run(inputs, outs, release)
            else:
                self._native.run_some(inputs, outs, streams, release)
        except ValueError as error:
            raise self._typed("run" if streams is None else "step", error) from None

    def run(self, *inputs: Any, out: Any) -> Any:
        """Computes into `out`, float32 [batch, ...] as `outputs` says (a tuple where there are several), and returns it.

        Raises ShapeError, with `out` untouched, for arrays that do not fit.
        """
        self._run("run", self._flat("run", inputs), self._outs("run", out))
        return out

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        """A call without arguments that reads `inputs` and writes `out`, float32 [batch, ...] as `outputs` says, in place.

        The arrays are checked and held, and so is their memory: torch and NumPy resize it no more. Raises ShapeError for those
        that do not fit.
        """
        try:
            given, made = self._flat("bind", inputs), self._outs("bind", out)
            return BoundModel(self._native, given, made, _held((*given, *made)))
        except ValueError as error:
            raise self._typed("bind", error) from None

    def _run(self, op: str, inputs: tuple[Any, ...], outs: tuple[Any, ...]) -> None:
        try:
            self._native.run(inputs, outs)
        except ValueError as error:
            raise self._typed(op, error) from None

    def _outs(self, op: str, out: Any) -> tuple[Any, ...]:
        """Arrays to write into: nested as the results, or one after the other."""
        found = flattened(out, self._returned)
        if found is not None:
            for array, constant in fixed_in(out, self._returned):
                _fill(op, array, constant)
        elif isinstance(out, (tuple, list)) and len(out) == len(self.outputs):
            found = list(out)
        if found is None:
            raise ShapeError(op, f"out as {type(out).__name__}", f"{len(self.outputs)} arrays", "See .outputs.")
        return tuple(way.as_it_lies(array) for way, array in zip(self._lying, found))

    def _in_order(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        names = [name for name, *_ in self.inputs]
        left = [name for name in names[len(inputs) :] if name in named]
        if len(left) != len(named) or len(inputs) + len(named) != len(names):
            got = f"{len(inputs)} arrays in order and {', '.join(named)} by name"
            raise ShapeError("call", got, f"{', '.join(names)}, each once", "See .inputs.")
        return (*inputs, *(named[name] for name in left))

    def __reduce__(self) -> Any:
        """Refused for `pickle` and `copy` alike: packed weights lie as this machine's kernels want them."""
        raise UnsupportedProblem(
            "pickle",
            f"the loaded model {self.name!r}",
            "the file, or its bytes",
            "Load the file once more, there or here.",
        )

    def _flat(self, op: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
        found = flattened(given, self._given)
        if found is None:
            kinds = ", ".join(type(one).__name__ for one in given) or "nothing"
            expected = f"{len(self.inputs)} arrays, nested as the model takes them"
            raise ShapeError(
                op, f"{len(given)} arguments ({kinds})", expected, "See .inputs; np.float32 makes an array of a list."
            )
        return tuple(found)

    def _fresh(self, inputs: tuple[Any, ...], rows: int | None = None) -> tuple[Any, ...]:
        sizes: list[int] = [] if rows is None else [rows]
        if rows is None and inputs and self.inputs:
            shape = getattr(inputs[0], "shape", None)
            wanted = self.inputs[0][2]
            if shape is not None and len(shape) == len(wanted):
                sizes = [int(s) for s, w in zip(shape, wanted) if w < 0]
        if self.streams and not sizes:
            sizes = [self.streams]
        results = []
        for name, dtype, shape in self.outputs:
            left = iter(sizes)
            made = [next(left, 1) if s < 0 else s for s in shape]
            try:
                results.append(np.empty(made, np.dtype(_BITS.get(dtype, dtype))))
            except MemoryError as error:
                raise FormatError(
                    "call",
                    f"{name} of shape {made}, for which there is no memory",
                    "results that fit the memory",
                    "Pass fewer rows, or get the file once more where it says so.",
                ) from error
        return tuple(results)

    def _nested(self, given: tuple[Any, ...], outs: tuple[Any, ...]) -> Any:
        """Results as the model returns them, as torch tensors where the first input is one."""
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(given[0], torch.Tensor):
            return nested(self._returned, self._as_returned(outs))
        return nested(self._returned, self._as_returned(self._as_torch(outs)), _tensor)

    def _as_returned(self, outs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(way.returned(out) for way, out in zip(self._lying, outs))

    def _as_torch(self, outs: tuple[Any, ...]) -> tuple[Any, ...]:
        torch = sys.modules["torch"]
        kinds = [getattr(torch, dtype) for _, dtype, _ in self.outputs]
        made = (torch.from_numpy(out) for out in outs)
        return tuple(t.view(kind) if kind == torch.bfloat16 else t for t, kind in zip(made, kinds))

    def loop_step(self, op: str, ports: Sequence[Port]) -> tuple[Any, list[Port], list[Any]]:
        """As a step of an `rt.Loop`, for inputs of these (shape, dtype), with or without their batch of one."""
        return model_step(op, self.name, self._native, self.inputs, self.outputs, ports)

    # -- streams

    @property
    def streams(self) -> int:
        """Number of streams that it keeps the past of; 0 where it is no stream."""
        return int(self._native.streams)

    def reset(self, streams: int | Iterable[int] | None = None) -> None:
        """All streams, or those given, start anew. Raises ShapeError for a stream that does not exist."""
        chosen = range(self.streams) if streams is None else [streams] if isinstance(streams, int) else list(streams)
        for s in self._numbers("reset", chosen):
            self._native.reset(s, 1)

    def save_stream(self, stream: int) -> bytes:
        """What one stream remembers, to go on with it in another place or on another machine. Raises ShapeError for a stream that
        does not exist."""
        return bytes(self._native.save_stream(*self._numbers("save_stream", [stream])))

    def load_stream(self, stream: int, state: bytes) -> None:
        """Stream number `stream` goes on from what `save_stream` of the same model gave; the others are as they were. Raises
        FormatError, with nothing changed, for other bytes."""
        number = self._numbers("load_stream", [stream])
        try:
            self._native.load_stream(*number, bytes(state))
        except ValueError as error:
            raise self._typed("load_stream", error) from None

    def _numbers(self, op: str, streams: Iterable[Any]) -> list[int]:
        given = list(streams)
        try:
            chosen = [operator.index(s) for s in given if not isinstance(s, bool)]
        except TypeError:
            chosen = []
        bad = [s for s in chosen if not 0 <= s < self.streams] if len(chosen) == len(given) else given
        if bad:
            some = f"numbers in 0..{self.streams - 1}" if self.streams else "none: the model keeps no past of streams"
            raise ShapeError(op, f"streams {bad}", some, "Name streams of this model.")
        return chosen

    def save_state(self) -> bytes:
        """The past of all streams, for `load_state` of the same model."""
        return bytes(self._native.save_state())

    def load_state(self, state: bytes) -> None:
        """Goes on from a past that `save_state` gave. Raises FormatError, with nothing changed, for any other bytes."""
        try:
            self._native.load_state(bytes(state))
        except ValueError as error:
            raise self._typed("load_state", error) from None

    # -- weights

    def swap(self, path: str | os.PathLike[str] | bytes) -> None:
        """Weights from another file (or its bytes) of the same model, exchanged when the next call begins; streams go on.

        Raises FormatError, with nothing changed, for a file that is damaged or of another model.
        """
        try:
            if isinstance(path, bytes):
                self._native.swap(path, self._flags & ~IN_PLACE)
            else:
                self._native.swap(os.fspath(path), self._flags)
        except ValueError as error:
            raise self._typed("swap", error) from None

    def rollback(self) -> None:
        """The weights before the last swap, exchanged in the same way; once more after a call, and those of the swap are back.
        A swap that no call has met is taken back for good. Raises FormatError where there is nothing to go back to."""
        try:
            self._native.rollback()
        except ValueError as error:
            raise self._typed("rollback", error) from None

    # -- memory

    def prefault(self) -> int:
        """Makes packed weights, scratch and states resident; gives their bytes."""
        return int(self._native.prefault())

    def lock(self) -> None:
        """Keeps that memory resident (mlock). Raises UnsupportedProblem where the system does not allow it."""
        try:
            self._native.lock()
        except ValueError as error:
            raise self._typed("lock", error) from None

    # -- looking

    @property
    def name(self) -> str:
        return str(self._native.name)

    @property
    def batch(self) -> tuple[int, int | None]:
        """Sizes of the batch that a call may have, both included; None: any."""
        least, most = self._native.batch
        return least, None if most < 0 else most

    @property
    def stages(self) -> tuple[tuple[str, str, str], ...]:
        """(name, operator, kernel chosen on this machine) of each stage."""
        return tuple(self._native.stages)

    def explain(self) -> str:
        """What is in it, and the kernel chosen for each stage on this machine."""
        lines = [f"{self.name}: {len(self.stages)} native stages from {self._source}"]
        for label, edges in (("input", self.inputs), ("output", self.outputs)):
            for name, dtype, shape in edges:
                lines.append(f"{label} {name}: {dtype}[{', '.join('*' if s < 0 else str(s) for s in shape)}]")
        if self.streams:
            lines.append(f"{self.streams} streams with {self._native.state_bytes} B of states, one time step a call")
        ready, why = self._native.prepacked
        found = f", {ready} B of them ready in the file" if ready else f" ({why})" if why else ""
        lines.append(f"packed weights {self._native.packed_bytes} B{found}, scratch {self._native.scratch_bytes} B")
        for key in ("scheme", "verified", "rtaccel"):
            if key in self.metadata:
                lines.append(f"{key}: {self.metadata[key]}")
        width = max(len(name) for name, _, _ in self.stages)
        lines += ["", *(f"{name:<{width}}  {op:<16} {kernel}" for name, op, kernel in self.stages)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"LoadedModel({self.name!r}, {len(self.stages)} stages, from {self._source!r})"

    def _typed(self, op: str, error: ValueError) -> RtaccelError:
        return typed(op, self.name, error)


def _fill(op: str, array: Any, constant: np.ndarray) -> None:
    """Writes a constant result into an array of the caller's. Raises ShapeError where it does not fit."""
    shape, dtype = tuple(getattr(array, "shape", ())), str(getattr(array, "dtype", type(array).__name__))
    kinds = [str(constant.dtype), *(half for half, bits in _BITS.items() if constant.dtype == bits)]
    if shape != constant.shape or dtype.removeprefix("torch.") not in kinds:
        got = f"out of {dtype} {list(shape)} for a constant result"
        raise ShapeError(op, got, f"{kinds[-1]} {list(constant.shape)}, or None", "Pass None for it.")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        array.copy_(_tensor(constant))
    else:
        np.copyto(np.asarray(array), constant)


def _tensor(array: np.ndarray) -> Any:
    """As torch's, of a result or a constant of the file. uint16 is in none but as the bits of bfloat16."""
    torch = sys.modules["torch"]
    made = torch.from_numpy(array)
    return made.view(torch.bfloat16) if array.dtype == _BITS["bfloat16"] else made


def _held(arrays: Sequence[Any]) -> list[Any]:
    """The memory of those that are tensors of torch on the CPU; NumPy holds its own while it is looked at."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    from rtaccel.core.process.held_memory import held

    return [held(a) for a in arrays if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
