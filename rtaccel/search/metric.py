"""The user's metric: called with what stands in for the model, checked, and asked how sure a drop is."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.core.errors import FormatError, RtaccelError

OP = "fit_budget"

FOLDS = 32
"""Parts of the metric's data that a plan computes alone, for the sampling error of a drop."""

MIN_FOLDS = 8
"""Of a metric that is slow for the time given; fewer say too little."""

SEGMENTS = 3
"""Runs of neighboring rows in each part: neighbors in time resemble each other, and count as one."""

MAX_BYTES = 512 << 20
"""Of the calls that are kept. A metric with more goes without a sampling error."""


@dataclass(frozen=True)
class Relative:
    """A drop as a share of the metric in float32: `max_drop=rt.Relative(0.01)` permits 1 % of it.

    Raises FormatError for a share that is not a finite number, 0 or above.
    """

    share: float

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float)) or not 0 <= self.share < math.inf:
            raise FormatError("Relative", f"share={self.share!r}", "a finite number, 0 or above", "0.01 is 1 %.")

    def of(self, value: float) -> float:
        """The drop that is permitted from a metric's value."""
        return self.share * abs(value)


class Recorder(nn.Module):
    """What a metric is given: it calls the model, and keeps inputs and results. An nn.Module in eval mode, since some metrics
    ask for one."""

    def __init__(self, call: Callable[..., Any], kept: bool = True) -> None:
        super().__init__()
        self.eval()
        self.__dict__["_call"] = call  # no submodule: its parameters are not the metric's business
        self.calls: list[tuple[list[Any], Any]] | None = [] if kept else None
        self._bytes = 0

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with torch.no_grad():
            given = None if self.calls is None else _copied((inputs, named))
            result = self.__dict__["_call"](*inputs, **named)
            if self.calls is not None and given is not None:
                copy = _copied(result)
                self._bytes += sum(t.numel() * t.element_size() for t in _tensors((given, copy)))
                self.calls.append((pytree.tree_leaves(given), copy))
                if self._bytes > MAX_BYTES:
                    self.calls = None
        return result


class Metric:
    """fn(callable) -> a number, larger is better. value: in float32. resolution: by how much two calls differ. grain: the least
    difference from it seen so far, which is one row of an accuracy; 0 before there is any.

    Raises FormatError where fn is no function of a callable, or gives no finite number, or the same whatever the model says.
    """

    def __init__(self, fn: Any, model: nn.Module, seed: int) -> None:
        _check_callable(fn)
        self._fn, self._seed = fn, seed
        self.seconds = self.grain = 0.0
        self.fed_back = False
        first = self._recorded(model)
        self.calls = first.calls
        self.value = first.value
        again = self._recorded(model)
        self.resolution = abs(again.value - first.value)
        self._check_varies()

    def _check_varies(self) -> None:
        if self.calls == []:
            raise FormatError(
                OP, "a metric that never calls what it is given", "fn(model) that judges model(x)", "Call its argument."
            )

        def silent(*inputs: Any, **named: Any) -> Any:
            return pytree.tree_map(lambda t: torch.zeros_like(t) if isinstance(t, Tensor) else t, self._model_result())

        if self.calls is None:
            return
        queue = iter(self.calls)
        self._model_result = lambda: next(queue)[1]
        try:
            found = self._value(Recorder(silent, kept=False))
        except RtaccelError:
            return  # not a finite number: it does depend on the model
        except Exception:  # nor does it where it cannot go on, as with a robot that fell at once
            return
        if found == self.value and any(
            bool(t.abs().max() > 0) for _, y in self.calls for t in _tensors(y) if t.numel()
        ):
            raise FormatError(
                OP, f"a metric that is {self.value:g} for the model and for zeros", "one that judges the results",
                "Let it call its argument and compare what that gives.",
            )  # fmt: skip

    def _value(self, recorder: Recorder) -> float:
        start = time.perf_counter()
        given = self._fn(recorder)
        self.seconds = time.perf_counter() - start
        try:
            value = float(given)
        except (TypeError, ValueError) as error:
            raise FormatError(
                OP, f"a metric that gives {type(given).__name__}", "a number", "Return a float."
            ) from error
        if not math.isfinite(value):
            raise FormatError(OP, f"a metric that gives {value}", "a finite number", "Mend the metric or its data.")
        return value

    def _recorded(self, call: Callable[..., Any]) -> Judged:
        recorder = Recorder(call)
        value = self._value(recorder)
        return Judged(value, recorder.calls)

    def judge(self, call: Callable[..., Any]) -> Judged:
        """The metric of a plan. One that is not a number is the worst there is."""
        recorder = Recorder(call)
        try:
            value = self._value(recorder)
        except FormatError as error:
            if "finite" in error.expected:
                return Judged(-math.inf, None)
            raise
        step = abs(value - self.value)
        if step > 1e-12 * max(abs(self.value), abs(value)):
            self.grain = min(self.grain or step, step)
        return Judged(value, recorder.calls)

    def sampling_error(self, judged: Judged, folds: int = FOLDS) -> float | None:
        """Standard error of the drop over data like the metric's; None where the calls of a plan are not those of the model, or
        there are too few.

        The rows are dealt to so many parts. The metric is asked again for each, with the plan's results there and float32's
        elsewhere: the drops of the parts add up to the whole drop, and their spread says how much it owes to chance.
        """
        mine, theirs = self.calls, judged.calls
        if mine is None or theirs is None or not _same_inputs(mine, theirs):
            self.fed_back = self.fed_back or (mine is not None and theirs is not None)
            return None
        fold_of, count = _folds([_rows(inputs) for inputs, _ in mine], folds, self._seed)
        if count < MIN_FOLDS:
            return None
        drops = []
        for fold in range(count):
            mixed = iter([_mixed(a[1], b[1], folds == fold) for a, b, folds in zip(mine, theirs, fold_of)])
            drops.append(self.value - self._value(Recorder(lambda *_, mixed=mixed, **__: next(mixed), kept=False)))
        spread = np.array(drops) - np.mean(drops)
        return float(np.sqrt(np.square(spread).sum() * count / (count - 1)))

    def sees(self, batches: Sequence[Any]) -> bool:
        """Whether it judges the very numbers of these batches."""
        given = [t for batch in batches for t in _tensors(batch) if t.numel()]
        seen = [t for inputs, _ in self.calls or () for t in inputs if isinstance(t, Tensor)]
        return any(a.shape == b.shape and torch.equal(a, b) for a in given for b in seen)


@dataclass(frozen=True, eq=False)
class Judged:
    """A metric's value, and the calls behind it where they were kept."""

    value: float
    calls: list[tuple[list[Any], Any]] | None


def _check_callable(fn: Any) -> None:
    if not callable(fn) or isinstance(fn, nn.Module):
        got = f"metric of type {type(fn).__name__}"
        raise FormatError(OP, got, "a function fn(model) -> float, larger is better", "Pass the function itself.")
    try:
        inspect.signature(fn).bind(None)
    except TypeError as error:
        got = f"a metric that does not take one argument ({error})"
        raise FormatError(OP, got, "fn(model) -> float", "Let it take the model to judge.") from error
    except ValueError:
        pass  # no signature to look at


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _copied(tree: Any) -> Any:
    return pytree.tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, tree)


def _same_inputs(a: Sequence[tuple[list[Any], Any]], b: Sequence[tuple[list[Any], Any]]) -> bool:
    return len(a) == len(b) and all(
        len(x) == len(y)
        and all(torch.equal(p, q) if isinstance(p, Tensor) and isinstance(q, Tensor) else p is q or p == q
                for p, q in zip(x, y))
        for (x, _), (y, _) in zip(a, b)
    )  # fmt: skip


def _rows(inputs: Sequence[Any]) -> int:
    return next((len(t) for t in inputs if isinstance(t, Tensor) and t.dim()), 1)


def _folds(rows: Sequence[int], most: int, seed: int) -> tuple[list[Tensor], int]:
    """The part of each row of each call, and how many parts there are."""
    total = sum(rows)
    count = min(most, total // 2)
    if count < MIN_FOLDS:
        return [], 0
    segments = count * min(SEGMENTS, max(1, total // (2 * count)))
    dealt = torch.arange(segments) % count
    dealt = dealt[torch.randperm(segments, generator=torch.Generator().manual_seed(seed))]
    fold = dealt[torch.arange(total) * segments // total]
    return list(fold.split(list(rows))), count


def _mixed(base: Any, other: Any, rows: Tensor) -> Any:
    """Results with some rows of `other`; what has no such rows is other's where the first row is."""

    def leaf(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        if a.dim() and len(a) == len(rows) and a.shape == b.shape:
            return torch.where(rows.view(-1, *(1 for _ in a.shape[1:])), b, a)
        return (b if len(rows) and bool(rows[0]) else a).clone()

    return pytree.tree_map(leaf, base, other)
