"""`measure`: times each call of anything callable on its own and judges the result against a budget."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import TIME_KEYS, Budget
from rtaccel.measure.machine.witness import chain_iterations
from rtaccel.measure.machine.witness import judge as judge_witness
from rtaccel.measure.machine.witness import sample as sample_with_witness
from rtaccel.measure.numbers import is_finite, is_number, is_whole, shown
from rtaccel.measure.result import Latency
from rtaccel.measure.statistics.quantiles import TAILS, min_samples
from rtaccel.measure.statistics.run import Run
from rtaccel.measure.timing import sampler
from rtaccel.measure.timing.inputs import changes, fingerprint, score

__all__ = ["Latency", "measure", "plan_limits"]

MIN_SECONDS = 0.5
"""A default measurement goes on at least so long, so that it meets some of the machine's interruptions."""

MAX_SECONDS = 10.0
"""A default measurement stops here, with however many samples it has."""

MAX_SECONDS_SAMPLES = 60.0
"""A measurement with `samples` and no `seconds` stops here."""

MAX_SAMPLES = 1_000_000
"""A default measurement stops at so many samples (8 MB)."""

EVICTED_BYTES = 64 << 20
"""Read before a call with cold caches: more than the second and third level hold of one core's data."""

MAX_SECONDS_ASKED = 7 * 86_400.0
"""Longest measurement, warm-up and period that can be asked for: a week."""

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
    error: float | Callable[[Any], float] | None = None,
    metric: float | Callable[[Any], float] | None = None,
    name: str | None = None,
    setup: Callable[[], Any] | None = None,
    period_us: float | None = None,
    cold_cache: bool = False,
    witness: bool = False,
    inside: bool = False,
    clock: sampler.Clock = sampler.CLOCK,
    peak_bytes: int | None = None,
    joules: float | None = None,
) -> Latency:
    """Times `fn(*inputs)`, each call on its own, as the caller sees it: wrapper, conversion and arithmetic together.

    fn: any callable. Work it leaves running on a GPU when it returns is not seen; let it synchronize, or use
        `rtaccel.measure.timing.gpu`.
    inputs: a tuple or list of positional arguments, or one argument as it is.
    samples, seconds: how many calls, and for how long at most. Neither: at least 0.5 s and at least the samples that
        the budget's strictest percentile needs (662 for p99, 6,636 for p99.9), times what they are more because slow
        calls come together, until 10 s or 1,000,000 samples.
        `samples` alone stops after 60 s. `seconds` alone stops at 10,000,000 samples. One call is always measured.
    warmup: seconds of calls before that, one call at least, and up to five times as long while they become faster.
    size_bytes: for a budget's size. When the budget limits the size and none is given, the attribute `weight_bytes` of
        `fn` is taken, where it has one.
    error, metric: for a budget's max_error and min_metric: a number, or a function of what `fn` returns.
    setup: called before each call, outside of its time; returns the inputs of that call, as `inputs` is given.
    period_us: open loop. Calls are meant to start so far apart, and each is timed from its intended start: a slow call
        delays those after it, as it would in a service. None: closed loop, one call right after the other.
    cold_cache: 64 MiB are read before each call, outside of its time, so that it finds none of its data in a cache.
    witness: a fixed piece of work that takes as long is timed before each call, and the misses that the machine explains
        are counted beside the verdict, which stays on all (`rtaccel.measure.machine.witness`). It takes twice as long.
    inside: `fn` is a model bound to its tensors (`CompiledModel.bind`), timed within the native core: what a program in C
        sees, without the call from Python.
    clock: returns nanoseconds.
    peak_bytes: for a budget's peak_bytes; where none is given, the attribute of `fn`. joules: of one call, for a budget's joules.

    Garbage collection is off during the calls, and torch.no_grad is on if torch is loaded. What `fn` raises goes
    through unchanged. Where calls change their inputs, `notes` say so, and the verdict is never PASS when no two calls
    had the same. Raises FormatError for arguments that make no sense, for a clock that stands still or goes back, for an `fn`
    that returns a coroutine or a generator, and for an `error` or `metric` function where it returns nothing.

    >>> import rtaccel as rt
    >>> rt.measure(sorted, [[3, 1, 2]], budget=rt.Budget(p99_us=10_000), samples=700).verdict
    'PASS'
    """
    check_arguments(fn, budget, samples, seconds, warmup, size_bytes, error, metric, setup, period_us)
    how = How(warmup, setup, period_us, cold_cache, witness, inside, clock)
    how.check(fn, inputs)
    if size_bytes is None and budget is not None and budget.size_bytes is not None:
        size_bytes = weight_bytes(fn)
    if peak_bytes is None and budget is not None and budget.peak_bytes is not None:
        peak_bytes = getattr(fn, "peak_bytes", None)
    given: dict[str, Any] = {
        "name": name or callable_name(fn),
        "size_bytes": size_bytes,
        "error": error,
        "metric": metric,
    }
    given |= {"peak_bytes": _amount("peak_bytes", peak_bytes), "joules": _amount("joules", joules)}
    return measure_within(plan_limits(budget, samples, seconds), fn, inputs, budget, how, **given)


def _amount(key: str, value: Any) -> Any:
    """A number that a budget limits, or None. Raises FormatError for what is none."""
    if value is not None and not (is_finite(value) and value >= 0):
        raise FormatError(
            "measure", f"{key}={shown(value)}", "a number, 0 or above", "Leave it out if it is not known."
        )
    return value


@dataclass(frozen=True)
class How:
    """The arguments of `measure` that say how calls are made."""

    warmup: float = 0.1
    setup: Callable[[], Any] | None = None
    period_us: float | None = None
    cold_cache: bool = False
    witness: bool = False
    inside: bool = False
    clock: sampler.Clock = sampler.CLOCK

    def check(self, fn: object, inputs: Any) -> None:
        """Raises FormatError for what does not go together."""
        if self.period_us is not None and (self.witness or self.cold_cache):
            got = f"period_us with {'witness' if self.witness else 'cold_cache'}"
            expected = "one of them: what happens between the calls would make them late"
            raise FormatError("measure", got, expected, "Measure twice.")
        if not self.inside:
            return
        from rtaccel._native import Bound, BoundCascade, MailboxStep

        if type(fn) not in (Bound, BoundCascade, MailboxStep) or len(arguments(inputs)):
            got = f"inside=True for {type(fn).__name__} with {len(arguments(inputs))} inputs"
            raise FormatError(
                "measure", got, "a model bound to its tensors, and no inputs", "Pass fast.bind(x, out=y)."
            )
        if self.setup or self.period_us or self.cold_cache or self.witness or self.clock is not sampler.CLOCK:
            got = "inside=True with setup, period_us, cold_cache, witness or a clock"
            raise FormatError("measure", got, "inside=True alone", "Leave one out.")

    def __str__(self) -> str:
        if self.inside:
            return "inside the core"
        caches = "cold caches" if self.cold_cache else "warm"
        return caches if self.period_us is None else f"{caches}, open loop, a call each {self.period_us:g} us"

    def before(self) -> Callable[[], tuple[Any, ...] | None] | None:
        """What precedes each call: fresh inputs, and reading so much that nothing of the call is left in a cache."""
        setup = self.setup
        if not self.cold_cache:
            return None if setup is None else lambda: arguments(setup())
        from rtaccel._native import read_lines

        buffer = bytearray(b"\1") * EVICTED_BYTES  # written: pages never written are one page of zeros
        if setup is None:
            return partial(read_lines, buffer)

        def prepare() -> tuple[Any, ...]:
            args = arguments(setup())
            read_lines(buffer)
            return args

        return prepare


def measure_within(
    limits: sampler.Limits,
    fn: Callable[..., object],
    inputs: Any,
    budget: Budget | None,
    how: How,
    *,
    error: Any = None,
    metric: Any = None,
    **given: Any,
) -> Latency:
    """`measure` with limits and arguments that were checked before. given: as `Latency.from_samples` takes it."""
    args = arguments(inputs if how.setup is None else how.setup())
    period_ns = 0 if how.period_us is None else round(how.period_us * 1e3)
    loop = sampler.Loop(fn, args, how.before(), period_ns, clock=how.clock, inside=how.inside)
    timer_ns = sampler.timer_overhead_ns(args, how.clock)
    seen, notes = None, []
    with sampler.no_grad(), sampler.quiet():
        if callable(error) or callable(metric):
            result = fn(*args)
            sampler.check_ran(result)
            error, metric = score(error, result, "error"), score(metric, result, "metric")
        before = fingerprint(args)
        call_ns, unsteady = sampler.warm_up_until_steady(loop, how.warmup)
        warm = fingerprint(args)
        if how.witness:
            watched = replace(loop, spin_iterations=chain_iterations(call_ns))
            taken, spins, log = sample_with_witness(watched, limits, call_ns)
            seen = judge_witness(np.array(taken) / 1e3, np.array(spins) / 1e3, log, budget)
        else:
            begin = loop.now()
            taken = sampler.sample(loop, limits, call_ns)
            if budget is not None and not period_ns:
                _go_on(loop, limits, begin, taken, budget)
        changed, withheld = (None, None) if how.setup else changes(before, warm, fingerprint(args))
    if len(taken) < limits.min_samples:
        notes.append(f"stopped after {limits.max_ns / 1e9:g} s with {len(taken):,} of {limits.min_samples:,} samples")
    if period_ns and (late := sum(ns > period_ns for ns in taken[:-1])):
        notes.append(f"{late:,} calls began late, because the one before was not done within {how.period_us:g} us")
    notes += [note for note in (unsteady, changed) if note]
    return Latency.from_samples(
        taken,
        timer_ns=timer_ns,
        budget=budget,
        error=error,
        metric=metric,
        notes=tuple(notes),
        withheld=withheld,
        mode=str(how),
        witness=seen,
        **given,
    )


def _go_on(loop: sampler.Loop, limits: sampler.Limits, begin: int, taken: array[int], budget: Budget) -> None:
    """Measures on until the calls are worth as many independent ones as a claim needs, as long as the limits allow.

    It asks how slow calls cluster and not how many there are: a run that went on until its verdict pleased would not be
    right 99 times in 100.
    """
    times = {key: limit for key, limit in budget.as_dict().items() if key in TIME_KEYS}
    left = limits.max_ns - (loop.now() - begin)
    for _ in range(3):
        run = Run(np.array(taken) / 1e3)
        needed = max(
            (min_samples(TAILS[key.removesuffix("_us")]) * run.inflation(limit) for key, limit in times.items()),
            default=0,
        )
        more = min(math.ceil(needed), limits.max_samples) - len(taken)
        if more <= 0 or left <= 0:
            return
        taken.extend(sampler.sample(loop, sampler.Limits(more, more, 0, left)))
        left = limits.max_ns - (loop.now() - begin)


def arguments(inputs: Any) -> tuple[Any, ...]:
    """Positional arguments from a tuple, a list, or one argument as it is."""
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


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


def check_arguments(
    fn: object,
    budget: object,
    samples: object,
    seconds: object,
    warmup: object,
    size_bytes: object = None,
    error: object = None,
    metric: object = None,
    setup: object = None,
    period_us: object = None,
) -> None:
    """What `measure` refuses. Raises FormatError."""

    def refuse(got: str, expected: str, next_step: str) -> None:
        raise FormatError("measure", got, expected, next_step)

    if not callable(fn):
        refuse(f"fn of type {type(fn).__name__}", "something callable", "Pass the function, not what it returned.")
    if budget is not None and not isinstance(budget, Budget):
        refuse(f"budget of type {type(budget).__name__}", "a Budget", "Pass rt.Budget(p99_us=50), for example.")
    if samples is not None and not is_whole(samples, 1, MAX_SAMPLES_ASKED):
        refuse(f"samples={shown(samples)}", f"a whole number, 1 to {MAX_SAMPLES_ASKED:,}", "A p99 claim needs 662.")
    if seconds is not None and not (is_finite(seconds) and 0 < seconds <= MAX_SECONDS_ASKED):  # type: ignore[operator]
        expected = f"a positive number of seconds, {MAX_SECONDS_ASKED:,.0f} at most"
        refuse(f"seconds={shown(seconds)}", expected, "Leave it out for the default.")
    if not (is_finite(warmup) and 0 <= warmup <= MAX_SECONDS_ASKED):  # type: ignore[operator]
        expected = f"a number of seconds, 0 to {MAX_SECONDS_ASKED:,.0f}"
        refuse(f"warmup={shown(warmup)}", expected, "0 still makes one call.")
    if size_bytes is not None and not (is_finite(size_bytes) and size_bytes >= 0):  # type: ignore[operator]
        refuse(f"size_bytes={shown(size_bytes)}", "a number of bytes", "Leave it out if it is not known.")
    if not (error is None or callable(error) or (is_number(error) and not error < 0)):  # type: ignore[operator]
        refuse(f"error={shown(error)}", "a number, 0 or above, or a function", "Pass the absolute error.")
    if not (metric is None or callable(metric) or is_number(metric)):
        refuse(f"metric={shown(metric)}", "a number or a function", "Pass the metric as a number.")
    if setup is not None and not callable(setup):
        refuse(f"setup of type {type(setup).__name__}", "a function that returns inputs", "Pass the function itself.")
    if period_us is not None and not (is_finite(period_us) and 0.001 <= period_us <= MAX_SECONDS_ASKED * 1e6):  # type: ignore[operator]
        expected = f"microseconds, 0.001 to {MAX_SECONDS_ASKED * 1e6:,.0f}"
        refuse(f"period_us={shown(period_us)}", expected, "1e6 / calls per second is the period.")
