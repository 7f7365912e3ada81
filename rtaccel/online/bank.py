"""Streaming features over the channels of many streams, in one native pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online.arrays import F32, as_float32, bound_array, to_array
from rtaccel.online.checks import count, state_arrays, streams_of
from rtaccel.online.features import Count, Feature, LogCount, Minus, Value

MAX_NODES = 128
"""RTA_BANK_MAX_NODES."""

Spec = Feature | Count | LogCount


class Bank:
    """Features that are updated with each time step, over the channels of many streams.

    channels: how many, or their names.
    features: of rtaccel.online.features; each gives one number a channel, but Count and LogCount one a stream.
    streams: that run side by side.

    The result has feature after feature, with the channels side by side in each; `names` lists them. A sample that is NaN,
    infinite or beyond 1e18 in size is missing: that channel keeps its state and its features, which are NaN until its first
    sample. Counts of steps and seasons go on. Arithmetic is float32, the same bits on every instruction set.

    Raises ShapeError for sizes, FormatError for settings, UnsupportedProblem for more than 128 different expressions.

    Example:
        >>> from rtaccel.online import Bank
        >>> from rtaccel.online.features import Ewma, First
        >>> bank = Bank(["speed"], [Ewma(0.5), Ewma(0.5) - First(1)])
        >>> bank.step([[2.0]]), bank.step([[4.0]]), bank.names
        (array([[2., 0.]], dtype=float32), array([[3., 1.]], dtype=float32), ['speed_ewma0.5', 'speed_ewma0.5-first1'])
    """

    def __init__(self, channels: int | Sequence[str], features: Sequence[Spec], streams: int = 1) -> None:
        named = isinstance(channels, Iterable) and not isinstance(channels, (str, bytes))
        labels = [str(c) for c in channels] if named else _numbered(count("Bank", "channels", channels))  # type: ignore[union-attr]
        if not labels or len(set(labels)) != len(labels):
            raise ShapeError("Bank", f"channels={channels!r}", "at least one, with different names", "Name them.")
        self.channels, self.streams = len(labels), count("Bank", "streams", streams)
        if not isinstance(features, Iterable):
            raise FormatError("Bank", f"features={features!r:.80}", "a list of features", "Pass [Ewma(0.1)].")
        self._made_of = (labels, features := tuple(features))
        self._nodes: dict[Feature, int] = {}
        self._rows: list[tuple[int, int, int, float, int]] = []
        outputs, self.names = [], []
        for spec in features:
            if isinstance(spec, (Count, LogCount)):
                if not isinstance(spec.scale, (int, float)) or not math.isfinite(spec.scale):
                    raise FormatError("Bank", f"scale={spec.scale!r}", "a finite number", "Change scale.")
                outputs.append((spec.node, float(spec.scale)))
                self.names.append(spec.name)
            elif isinstance(spec, Feature):
                outputs.append((self._node(spec), 1.0))
                self.names.extend(f"{label}_{spec.name}" for label in labels)
            else:
                raise FormatError("Bank", f"a feature {spec!r}", "one of rtaccel.online.features", "Write Ewma(0.1).")
        if not outputs:
            raise FormatError("Bank", "no feature", "at least one", "Pass features=[Ewma(0.1)].")
        if len(self._rows) > MAX_NODES:
            raise UnsupportedProblem(
                "Bank", f"{len(self._rows)} different expressions", f"at most {MAX_NODES}", "Use several banks."
            )
        try:
            self._native = _native.Bank(self.streams, self.channels, self._rows, outputs)
        except ValueError as error:
            raise ShapeError(
                "Bank", f"{streams} streams of {self.channels} channels", "a state that fits memory", "Use fewer."
            ) from error
        self.width: int = self._native.width
        self._definition = json.dumps([self.streams, self.channels, self._rows, outputs])

    def step(self, x: Any, out: Any = None) -> F32:
        """The features after one time step: x [streams, channels] float32 (or [channels] for one stream) to
        [streams, width] float32. out: written instead of a fresh array. Raises ShapeError."""
        x = to_array("Bank", "x", x, (self.streams, self.channels))
        if self.streams == 1 and x.ndim == 1:
            x = as_float32("Bank", "x", x, (self.channels,)).reshape(1, -1)
        values = as_float32("Bank", "x", x, (self.streams, self.channels))
        shape = (self.streams, self.width)
        y: F32 = np.empty(shape, np.float32) if out is None else bound_array("Bank", "out", out, shape, written=True)
        self._native.step(values, y)
        return y

    def run(self, x: Any) -> F32:
        """step for each of x [time, streams, channels] float32 (or [time, channels] for one stream), in order:
        [time, streams, width] float32. Raises ShapeError."""
        x = to_array("Bank", "x", x, (None, self.streams, self.channels))
        if self.streams == 1 and x.ndim == 2:
            x = as_float32("Bank", "x", x, (None, self.channels))[:, None]
        values = as_float32("Bank", "x", x, (None, self.streams, self.channels))
        y = np.empty((values.shape[0], self.streams, self.width), dtype=np.float32)
        for now, to in zip(values, y, strict=True):
            self._native.step(now, to)
        return y

    def bind(self, x: Any, out: Any) -> Callable[[], None]:
        """A call without arguments that reads x [streams, channels] and writes out [streams, width], contiguous float32 in
        memory of their own, in place: nothing is allocated. Raises ShapeError."""
        values = bound_array("Bank", "x", x, (self.streams, self.channels))
        to = bound_array("Bank", "out", out, (self.streams, self.width), written=True)
        if np.may_share_memory(values, to):
            raise ShapeError("Bank", "out in the memory of x", "memory of its own", "Allocate it.")
        bound: Callable[[], None] = _native.BankBound(self._native, values, to)
        return bound

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """All streams, or those with these numbers, start anew. Raises ShapeError for a stream that is not there."""
        for stream in streams_of("Bank", streams, self.streams):
            self._native.reset(stream, 1)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that the streams have seen: floats float32 and integers uint32, and the bank's definition uint8."""
        floats, integers = self._native.state_size()
        state = {"floats": np.empty(floats, np.float32), "integers": np.empty(integers, np.uint32)}
        self._native.save(state["floats"], state["integers"])
        return {**state, "definition": np.frombuffer(self._definition.encode(), dtype=np.uint8)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, with the same bits. Raises FormatError, with nothing changed, for that of another bank."""
        floats, integers = self._native.state_size()
        wanted = {"floats": (np.float32, floats), "integers": (np.uint32, integers)}
        given = state_arrays("Bank", state, (*wanted, "definition"))
        definition = given["definition"]
        if definition.dtype != np.uint8 or definition.tobytes() != self._definition.encode():
            raise FormatError(
                "Bank", "the state of another bank", "one of the same streams, channels and features", "Load that."
            )
        for key, (dtype, size) in wanted.items():
            if (got := given[key]).dtype != dtype or got.shape != (size,):
                raise FormatError(
                    "Bank", f"{key} {got.dtype} {list(got.shape)}", f"{dtype.__name__} [{size}]", "Load it."
                )
        self._native.load(*(np.ascontiguousarray(given[key]) for key in wanted))

    def __reduce__(self) -> Any:
        """Copies and pickles go on from the same state."""
        return _restored, (*self._made_of, self.streams, self.state_dict())

    def _node(self, feature: Feature) -> int:
        """The number of a feature's node; those it reads come before it."""
        if feature in self._nodes:
            return self._nodes[feature]
        of = other = 0
        if isinstance(feature, Minus):
            of, other = self._node(feature.left), self._node(feature.right)
        elif not isinstance(feature, Feature):
            raise FormatError(
                "Bank", f"a feature of {feature!r:.80}", "one of rtaccel.online.features", "Write Ewma(0.1)."
            )
        elif not isinstance(feature, Value):
            of = self._node(getattr(feature, "of", None) or Value())
        length = next((getattr(feature, n) for n in ("count", "steps", "period") if hasattr(feature, n)), 0)
        self._rows.append((feature.kind, of, other, float(getattr(feature, "rate", 0.0)), length))
        self._nodes[feature] = len(self._rows) - 1
        return self._nodes[feature]


def _numbered(channels: int) -> list[str]:
    return [f"x{i}" for i in range(channels)]


def _restored(labels: list[str], features: tuple[Spec, ...], streams: int, state: Mapping[str, Any]) -> Bank:
    bank = Bank(labels, features, streams)
    bank.load_state_dict(state)
    return bank
