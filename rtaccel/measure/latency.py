"""`measure`: times each call of anything callable on its own and judges the result against a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.measure import sampler
from rtaccel.measure.budget import Budget
from rtaccel.measure.quantiles import TAILS, min_samples
from rtaccel.measure.result import Latency

__all__ = ["Latency", "measure", "plan_limits"]

MIN_SECONDS = 0.5
"""A default measurement goes on at least so long, so that it meets some of the machine's interruptions."""

MAX_SECONDS = 10.0
"""A default measurement stops here, with however many samples it has."""

MAX_SECONDS_SAMPLES = 60.0
"""A measurement with `samples` and no `seconds` stops here."""

MAX_SAMPLES = 1_000_000
"""A default measurement stops at so many samples (8 MB)."""

MAX_SAMPLES_ASKED = 10_000_000
"""Most samples that can be asked for, and where a measurement with `seconds` alone stops (80 MB)."""


def measure(
    fn: Callable[..., object],
    inputs: Any = (),
    budget: Budget | None = None,
    samples: int | None = None,
    seconds: float | None = None,
    *,
    warmup: float = 0.1,
    size_bytes: int | None = None,
    error: float | None = None,
    name: str | None = None,
    clock: sampler.Clock = time.perf_counter_ns,
) -> Latency:
    """Times `fn(*inputs)`, each call on its own, as the caller sees it: wrapper, conversion and arithmetic together.

    fn: any callable. Work it leaves running on a GPU when it returns is not seen; let it synchronise.
    inputs: a tuple or list of positional arguments, or one argument as it is.
    samples, seconds: how many calls, and for how long at most. Neither: at least 0.5 s and at least the samples that
        the budget's strictest percentile needs (662 for p99, 6,636 for p99.9), until 10 s or 1,000,000 samples.
        `samples` alone stops after 60 s. `seconds` alone stops at 10,000,000 samples. One call is always measured.
    warmup: seconds of calls before that, one call at least.
    size_bytes, error: for a budget's size and max_error. When the budget limits the size and none is given, the
        attribute `weight_bytes` of `fn` is taken, where it has one.
    clock: returns nanoseconds.

    Garbage collection is off during the calls, and torch.no_grad is on if torch is loaded. What `fn` raises goes
    through unchanged. Raises FormatError for samples, seconds, warmup, error, size or budget that make no sense.

    >>> import rtaccel as rt
    >>> rt.measure(sorted, [[3, 1, 2]], budget=rt.Budget(p99_us=10_000), samples=700).verdict
    'PASS'
    """
    _check_arguments(fn, budget, samples, seconds, warmup, size_bytes, error)
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if size_bytes is None and budget is not None and budget.size_bytes is not None:
        size_bytes = weight_bytes(fn)
    limits = plan_limits(budget, samples, seconds)
    timer_ns = sampler.timer_overhead_ns(args, clock)
    with sampler.no_grad(), sampler.quiet():
        sampler.warm_up(fn, args, warmup, clock)
        taken = sampler.sample_ns(fn, args, limits, clock)
    cut: tuple[str, ...] = ()
    if len(taken) < limits.min_samples:
        cut = (f"stopped after {limits.max_ns / 1e9:g} s with {len(taken):,} of {limits.min_samples:,} samples",)
    return Latency.from_samples(
        taken,
        name=name or callable_name(fn),
        timer_ns=timer_ns,
        budget=budget,
        size_bytes=size_bytes,
        error=error,
        notes=cut,
    )


def plan_limits(budget: Budget | None, samples: int | None = None, seconds: float | None = None) -> sampler.Limits:
    """When a measurement stops; see `measure`."""
    needed = max((min_samples(TAILS[q]) for q in TAILS if budget and f"{q}_us" in budget.as_dict()), default=1)
    if samples is not None:
        return sampler.Limits(samples, samples, 0, int((MAX_SECONDS_SAMPLES if seconds is None else seconds) * 1e9))
    if seconds is not None:
        return sampler.Limits(1, MAX_SAMPLES_ASKED, int(seconds * 1e9), int(seconds * 1e9))
    return sampler.Limits(needed, MAX_SAMPLES, int(MIN_SECONDS * 1e9), int(MAX_SECONDS * 1e9))


def callable_name(fn: object) -> str:
    """A name for tables: the function's, or the class's of a callable object."""
    return getattr(fn, "__name__", None) or type(fn).__name__


def weight_bytes(fn: object) -> int | None:
    """`fn.weight_bytes`, a number or a method without arguments; None where there is none."""
    found = getattr(fn, "weight_bytes", None)
    return found() if callable(found) else found


def _check_arguments(
    fn: object,
    budget: object,
    samples: object,
    seconds: object,
    warmup: object,
    size_bytes: object,
    error: object,
) -> None:
    def refuse(got: str, expected: str, next_step: str) -> None:
        raise FormatError("measure", got, expected, next_step)

    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def finite(value: Any) -> bool:
        return number(value) and math.isfinite(value)

    if not callable(fn):
        refuse(f"fn of type {type(fn).__name__}", "something callable", "Pass the function, not what it returned.")
    if budget is not None and not isinstance(budget, Budget):
        refuse(f"budget of type {type(budget).__name__}", "a Budget", "Pass rt.Budget(p99_us=50), for example.")
    whole = isinstance(samples, int) and not isinstance(samples, bool)
    if samples is not None and not (whole and 1 <= samples <= MAX_SAMPLES_ASKED):  # type: ignore[operator]
        refuse(f"samples={samples!r}", f"a whole number, 1 to {MAX_SAMPLES_ASKED:,}", "A p99 claim needs 662.")
    if seconds is not None and not (finite(seconds) and seconds > 0):  # type: ignore[operator]
        refuse(f"seconds={seconds!r}", "a positive finite number", "Leave it out for the default.")
    if not (finite(warmup) and warmup >= 0):  # type: ignore[operator]
        refuse(f"warmup={warmup!r}", "a finite number of seconds, 0 or above", "0 still makes one call.")
    if size_bytes is not None and not (finite(size_bytes) and size_bytes >= 0):  # type: ignore[operator]
        refuse(f"size_bytes={size_bytes!r}", "a number of bytes", "Leave it out if it is not known.")
    if error is not None and not (number(error) and not error < 0):  # type: ignore[operator]
        refuse(f"error={error!r}", "a number, 0 or above", "Pass the absolute error.")
