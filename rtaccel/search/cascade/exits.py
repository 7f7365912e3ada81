"""When an answer is sure enough: the test after a stage of a cascade."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.nn.check import describe

TESTS = {"confidence": 1, "margin": 2, "entropy": 3, "energy": 4, "value": 5}
"""Name of a test -> its number in `native/cascade/rta_cascade.h`."""

CALL = 6
NEVER = (0, False, 0.0, 0, None)
"""As the native side takes it: the last stage has no test."""


@dataclass(frozen=True)
class Exit:
    """A row leaves a cascade where the score of its answer is at least `above`, or at most `below`; one of them is given.

    test: what is computed of an answer y, float32 [outputs]; p = softmax(y), natural logarithms:
        "confidence": the largest p. "margin": the largest p less the second. "entropy": -sum(p log p), small where sure.
        "energy": log(sum(exp(y))), large where sure (Liu et al., 2020, with the other sign). "value": y[index], for a gate.
        A function of y as a NumPy array that gives a number: it runs in Python, and costs microseconds instead of nanoseconds.
    index: of "value", in the flat answer.

    The score is float32, the same bits on every processor. An answer with a NaN or +inf in it has the score NaN: it never leaves.
    Raises FormatError for an unknown test, for both limits or none, and for one that is not finite.

    Example:
        >>> import rtaccel as rt
        >>> rt.Exit("entropy", below=0.3)
        Exit('entropy', below=0.3)
    """

    test: str | Callable[[np.ndarray], float] = "confidence"
    above: float | None = None
    below: float | None = None
    index: int = 0

    def __post_init__(self) -> None:
        if not callable(self.test) and self.test not in TESTS:
            raise FormatError(
                "Exit", f"test={self.test!r}", f"one of {', '.join(TESTS)}, or a function", "Pass one of them."
            )
        if (self.above is None) == (self.below is None):
            got = "no limit" if self.above is None else f"above={self.above!r} and below={self.below!r}"
            raise FormatError("Exit", got, "above= or below=", "Pass one of them.")
        if not _is_number(self.threshold):
            raise FormatError("Exit", f"the limit {self.threshold!r}", "a number", "Pass a number; inf never leaves.")
        if isinstance(self.index, bool) or not isinstance(self.index, int) or self.index < 0:
            raise FormatError("Exit", f"index={self.index!r}", "a whole number, 0 or above", "Pass one.")

    @property
    def threshold(self) -> float:
        """The limit, on whichever side."""
        return self.below if self.above is None else self.above  # type: ignore[return-value]

    def at(self, threshold: float) -> Exit:
        """The same test on the same side with another limit."""
        return replace(self, below=threshold) if self.above is None else replace(self, above=threshold)

    @property
    def never(self) -> Exit:
        """The same with a limit that only an infinite score passes: no row leaves."""
        return self.at(-math.inf if self.above is None else math.inf)

    def passes(self, scores: Tensor) -> Tensor:
        """bool [rows] of scores float32 [rows]: which leave. The limit is rounded to float32, as it is in the native test. Raises
        ShapeError for scores of another dtype."""
        if scores.dtype != torch.float32:
            raise ShapeError("Exit.passes", describe(scores), "float32[rows], what scores() gives", "Convert them.")
        limit = torch.tensor(self.threshold, dtype=torch.float32)
        return scores <= limit if self.above is None else scores >= limit

    def scores(self, y: Tensor) -> Tensor:
        """float32 [rows] of answers float32 [rows, ...], by the code that a cascade runs. Raises ShapeError for answers without
        such a score, FormatError where a function gives no number."""
        if y.dtype != torch.float32 or y.dim() < 2 or y.device.type != "cpu":
            raise ShapeError("Exit.scores", describe(y), "float32[rows, ...] on cpu", "Convert it.")
        self.check_answer("Exit.scores", 0, y.shape[1:])
        flat = y.detach().reshape(len(y), math.prod(y.shape[1:])).contiguous()
        if not callable(self.test):
            found = torch.empty(len(flat), dtype=torch.float32)
            place = flat.data_ptr(), flat.shape[1], len(flat), found.data_ptr()
            native.exit_scores(TESTS[self.test], self.index, *place)
            return found
        return torch.tensor([_number(self.test(row.numpy().copy())) for row in y.detach()], dtype=torch.float32)

    def native_row(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """As the native side takes it. shape: of an answer."""
        if not callable(self.test):
            return TESTS[self.test], self.above is None, self.threshold, self.index, None
        return CALL, self.above is None, self.threshold, 0, _caller(self.test, tuple(shape))

    def check_answer(self, op: str, stage: int, shape: Sequence[int]) -> None:
        """Raises ShapeError where answers of this shape have no such score."""
        width = math.prod(shape)
        if not callable(self.test) and self.test != "value" and width < 2:
            raise ShapeError(
                op, f"{self.test} of {width} output after stage {stage}", "two outputs or more: a softmax over one is 1",
                "Take rt.Exit('value', above=...) or a function.",
            )  # fmt: skip
        if self.test == "value" and self.index >= width:
            raise ShapeError(
                op, f"index={self.index} after stage {stage}", f"0..{width - 1}", "Name one of the outputs."
            )

    def __repr__(self) -> str:
        name = f"{self.test!r}" if isinstance(self.test, str) else getattr(self.test, "__name__", "a function")
        index = f", index={self.index}" if self.test == "value" else ""
        side = "below" if self.above is None else "above"
        return f"Exit({name}, {side}={self.threshold:.6g}{index})"


def exits_of(op: str, given: Any, count: int, test: Any) -> list[Exit]:
    """A test for each stage but the last. given: limits and tests; a number is a limit of `test` on its usual side."""
    try:
        each = list(given)
    except TypeError:
        each = [given]
    if len(each) != count - 1:
        raise FormatError(
            op,
            f"{len(each)} exits for {count} stages",
            f"{count - 1}, one after each stage but the last",
            "Match them.",
        )
    return [one if isinstance(one, Exit) else exit_like(op, test, one) for one in each]


def exit_like(op: str, test: Any, limit: Any) -> Exit:
    """A test with a limit on its usual side: an entropy is small where an answer is sure, everything else large."""
    if isinstance(test, Exit):
        return test.at(limit)
    if isinstance(limit, bool) or not _is_number(limit):
        raise FormatError(op, f"exit={limit!r}", "a number or an rt.Exit", "Pass one.")
    return Exit(test, below=limit) if test == "entropy" else Exit(test, above=limit)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float, np.floating)) and not math.isnan(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise FormatError(
            "Exit", f"a test that gives {type(value).__name__}", "a number", "Return a float; NaN never leaves."
        ) from error


def _caller(test: Callable[[np.ndarray], float], shape: tuple[int, ...]) -> Callable[[int], float]:
    """The test of an answer by its address. It sees a copy: the memory is the cascade's."""
    count = math.prod(shape)

    def call(address: int) -> float:
        memory: Any = (ctypes.c_float * count).from_address(address)
        y = np.frombuffer(memory, np.float32).reshape(shape)
        return _number(test(y.copy()))

    return call
