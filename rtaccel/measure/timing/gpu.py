"""Calls whose work runs on a CUDA device: on a stream, as a graph, or in a persistent kernel there.

A call that only submits work returns long before the answer is there. Here a sample ends when the host can see the answer,
because that is what a budget is about: the submission, the work and the way back. The time on the device alone, between two
events, is kept beside it.

`stream`: the call submits to the current stream, and the stream is synchronized. `graph`: the call is captured once, a
sample is a replay and a synchronization; a graph without a node is refused, since it replays in nanoseconds and computes
nothing. `persistent`: a kernel that is running already takes the input and hands back the answer, so the call itself waits,
nothing is submitted, and no stream may be synchronized, because the kernel never ends.

Everything raises BackendUnavailable where torch has no CUDA device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure.numbers import shown

MODES = ("cpu", "stream", "graph", "persistent")
"""What the fixture `latency` takes as `mode`."""

_CAPTURE_WARMUPS = 3
_EVENTS = 200


@dataclass(frozen=True)
class Prepared:
    """call: what is to be timed, without arguments; it returns when the answer is there. device_us: times calls on the
    device alone, float32 [calls]; None where no event can tell."""

    call: Callable[[], object]
    device_us: Callable[[], np.ndarray] | None


def prepare(fn: Callable[..., object], args: tuple[Any, ...], mode: str) -> Prepared:
    """Makes a call in one of `MODES` from `fn(*args)`.

    Raises FormatError for another mode and for an empty graph, BackendUnavailable without a CUDA device. What `fn` raises
    goes through unchanged; during a capture torch raises what a graph cannot hold.
    """
    if mode not in MODES:
        raise FormatError(
            "measure", f"mode={shown(mode)}", "one of " + ", ".join(MODES), "Choose how the call is made."
        )
    if mode == "cpu":
        return Prepared(lambda: fn(*args), None)
    cuda = _cuda(mode)
    if mode == "persistent":
        return Prepared(lambda: fn(*args), None)
    submit = (lambda: fn(*args)) if mode == "stream" else _captured(cuda, fn, args).replay
    stream = cuda.current_stream()

    def call() -> None:
        submit()
        stream.synchronize()

    return Prepared(call, lambda: _on_device(cuda, submit, stream))


def _cuda(mode: str) -> Any:
    torch: Any = import_module("torch")
    if not torch.cuda.is_available():
        has = torch.version.cuda and f"torch is built for CUDA {torch.version.cuda} and finds no device"
        reason = has or "torch is built without CUDA"
        raise BackendUnavailable("measure", f"mode={mode!r}, but {reason}", "a CUDA device", "Use mode='cpu' here.")
    return torch.cuda


def _captured(cuda: Any, fn: Callable[..., object], args: tuple[Any, ...]) -> Any:
    """The graph of one call. It is called before on a side stream, as torch asks for: lazy work must not be captured."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(_CAPTURE_WARMUPS):
            fn(*args)
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with cuda.graph(graph):
            fn(*args)
    empty = False
    for warning in said:
        if "graph is empty" in str(warning.message).lower():
            empty = True
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if empty:
        got = "a CUDA graph without a single node"
        raise FormatError("measure", got, "work on the current stream", "Submit to torch.cuda.current_stream().")
    return graph


def _on_device(cuda: Any, submit: Callable[[], object], stream: Any) -> np.ndarray:
    """Microseconds between an event before and one after the work of a call, float32; half a microsecond fine."""
    pairs = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(_EVENTS)]
    for begin, end in pairs:
        begin.record(stream)
        submit()
        end.record(stream)
        stream.synchronize()
    return np.array([begin.elapsed_time(end) * 1e3 for begin, end in pairs], dtype=np.float32)
