"""The inner loop of a measurement: one clock reading before a call, one after, nothing else in between."""

from __future__ import annotations

import gc
import inspect
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.measure.numbers import figure

Clock = Callable[[], int]
"""Returns nanoseconds, never decreasing."""

CLOCK: Clock = time.perf_counter_ns
"""With this one the loop runs in the native core, on the same clock: 30 ns of a sample are the timer's, not 100."""

_CHUNK = 1024
_STUCK_SECONDS = 0.5
_STEADY = 0.05


@dataclass(frozen=True)
class Limits:
    """When to stop: at max_samples or max_ns, and before that once min_samples and min_ns are both reached."""

    min_samples: int
    max_samples: int
    min_ns: int
    max_ns: int


@dataclass(frozen=True)
class Loop:
    """What is called over and over, and what happens around a call, outside of its time.

    before: called first, every time; a tuple that it returns is the arguments of the call. period_ns: the time between
    intended starts, 0 for one call right after the other. A call that starts late, because the one before it took long,
    is timed from its intended start: no coordinated omission (G. Tene). spin_iterations: length of the chain that is
    timed before each call as a witness, into `spins`; 0 for none. inside: `call` is a bound model, timed in the native
    core without the call from Python.
    """

    call: Callable[..., object]
    args: tuple[Any, ...] = ()
    before: Callable[[], tuple[Any, ...] | None] | None = None
    period_ns: int = 0
    spin_iterations: int = 0
    clock: Clock = CLOCK
    inside: bool = False

    def now(self) -> int:
        if self.clock is CLOCK:
            from rtaccel import _native

            return _native.now_ns()
        return self.clock()

    def plain(self) -> Loop:
        """Without intended starts and witness: for warming up."""
        return replace(self, period_ns=0, spin_iterations=0)

    def fill(
        self,
        out: array[int],
        start: int,
        stop: int,
        deadline: int,
        first: int = 0,
        spins: array[int] | None = None,
    ) -> int:
        """Times calls into out[start:stop] until a call ends at or after the deadline; returns the next free index.

        first: when call 0 is meant to start. spins: as long as `out`, where there is a witness.
        """
        plain = self.before is None and not self.period_ns and not self.spin_iterations
        if self.clock is not CLOCK:
            return self._fill_in_python(out, start, stop, deadline, first, spins)
        from rtaccel import _native

        if self.inside:
            return self.call.time(out, start, stop, deadline)  # type: ignore[attr-defined]
        if plain:
            return _native.time_calls(self.call, self.args, out, start, stop, deadline)
        given = self.before, first, self.period_ns, self.spin_iterations, spins
        return _native.time_prepared_calls(self.call, self.args, out, start, stop, deadline, *given)

    def _fill_in_python(
        self, out: array[int], start: int, stop: int, deadline: int, first: int, spins: array[int] | None
    ) -> int:
        from rtaccel import _native

        call, args, clock = self.call, self.args, self.clock
        for i in range(start, stop):
            if self.before is not None:
                args = self.before() or args
            if self.spin_iterations and spins is not None:
                before = clock()
                _native.spin(self.spin_iterations)
                spins[i] = clock() - before
            before = clock()
            if self.period_ns:
                while before < first + i * self.period_ns:
                    before = clock()
                before = first + i * self.period_ns
            call(*args)
            after = clock()
            out[i] = after - before
            if after >= deadline:
                return i + 1
        return stop


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside, and its former state afterwards, whatever is raised."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def no_grad() -> AbstractContextManager[Any]:
    """torch.no_grad() if torch is loaded already; torch is never imported for it."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None or not hasattr(torch, "no_grad") else torch.no_grad()


def check_ran(result: object) -> None:
    """Raises FormatError for what a call of an async function or a generator gives: nothing of its body has run."""
    kind = type(result).__name__
    if inspect.isawaitable(result):
        hint = "Measure a function that waits for it: lambda: loop.run_until_complete(fn())."
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        hint = "Measure a function that goes through it: lambda: list(fn()), or lambda: next(it)."
    else:
        return
    if inspect.iscoroutine(result):
        result.close()  # or Python warns of it
    raise FormatError(
        "measure", f"a callable that returns a {kind}", "one that has done its work when it returns", hint
    )


def warm_up(call: Callable[..., object], args: tuple[Any, ...], seconds: float, clock: Clock = CLOCK) -> float:
    """Calls for so many seconds, at least once; the median time of the last calls in nanoseconds.

    Raises FormatError where the first one gives a coroutine or a generator, as `warm_up_until_steady` does."""
    return _first_pass(Loop(call, args, clock=clock), seconds)


def warm_up_until_steady(loop: Loop, seconds: float) -> tuple[float, str | None]:
    """Calls for so many seconds, at least once, and on until the calls are steady, five times as long at most.

    Steady: the medians of the last three windows, each half of `seconds` long, lie within 5 % (the sliding window of
    A. Georges, D. Buytaert and L. Eeckhout, OOPSLA 2007, on medians). Returns the median of the last calls in
    nanoseconds, and a sentence where they did not become steady.
    """
    loop = loop.plain()
    end = loop.now() + int(5 * seconds * 1e9)
    medians = [_first_pass(loop, seconds)]
    while seconds > 0 and loop.now() < end:
        medians.append(_pass(loop, seconds / 2))
        if len(medians) >= 4 and max(medians[-3:]) <= (1 + _STEADY) * min(medians[-3:]):
            return medians[-1], None
    if len(medians) < 4:  # too slow a call for windows
        return medians[-1], None
    low, high = min(medians[-3:]), max(medians[-3:])
    return medians[-1], (
        f"no steady state within {5 * seconds:g} s of warm-up: medians from {figure(low / 1e3)} to {figure(high / 1e3)} us; give "
        "it more with warmup=, or leave the machine alone"
    )


def _first_pass(loop: Loop, seconds: float) -> float:
    """`_pass`, with a look at what the first call returns."""
    if loop.inside:
        return _pass(loop, seconds)
    scratch = array("q", [0])
    start = loop.now()
    replace(loop, call=lambda *args: check_ran(loop.call(*args))).fill(scratch, 0, 1, sys.maxsize)
    left = seconds - (loop.now() - start) / 1e9
    return _pass(loop, left) if left > 0 else float(scratch[0])


def _pass(loop: Loop, seconds: float) -> float:
    """It runs through the loop that measures, so that the interpreter has specialized it too."""
    scratch = array("q", bytes(8 * _CHUNK))
    start = loop.now()
    deadline = start + int(seconds * 1e9)
    watch = time.monotonic()
    while True:
        n = loop.fill(scratch, 0, _CHUNK, deadline)
        now = loop.now()
        if n < _CHUNK or now >= deadline:
            return float(statistics.median_high(scratch[:n]))
        if now == start and time.monotonic() - watch > _STUCK_SECONDS:
            raise _stuck(f"the same {now} ns for {_STUCK_SECONDS} s of calls")


def _stuck(got: str) -> FormatError:
    return FormatError("clock", got, "nanoseconds that go on", "Measure with the default clock.")


def sample_ns(call: Callable[..., object], args: tuple[Any, ...], limits: Limits, clock: Clock = CLOCK) -> array[int]:
    """Nanoseconds of each call, in order; at least one. What `call` raises goes through unchanged."""
    return sample(Loop(call, args, clock=clock), limits)


def sample(loop: Loop, limits: Limits, call_ns: float = 0.0) -> array[int]:
    """Nanoseconds of each call of a loop, in order; at least one. What it raises goes through unchanged.

    call_ns: what a call takes, where that is known: memory is then taken for twice as many as the time allows, and for more
    should that not do. Raises FormatError for a clock that stands still or goes backwards.
    """
    room = limits.max_samples
    if call_ns > 0 and not loop.period_ns:
        room = min(room, max(limits.min_samples, int(2 * limits.max_ns / call_ns) + _CHUNK))
    out = array("q", bytes(8 * room))  # written here, so that no page is touched for the first time later
    start = loop.now()
    n = loop.fill(out, 0, limits.min_samples, start + limits.max_ns, start)
    if n == limits.min_samples and n < limits.max_samples and loop.now() < start + limits.min_ns:
        n = loop.fill(out, n, len(out), start + limits.min_ns, start)
        while n == len(out) < limits.max_samples and loop.now() < start + limits.min_ns:
            out.extend(array("q", bytes(8 * min(n, limits.max_samples - n))))
            n = loop.fill(out, n, len(out), start + limits.min_ns, start)
    check_clock(loop.now() - start, out[:n])
    return out[:n]


def check_clock(passed_ns: int, samples: array[int]) -> None:
    """Raises FormatError where a clock did not move during calls, or moved backwards."""
    if passed_ns <= 0:
        raise _stuck(f"{passed_ns} ns for {len(samples):,} calls")
    if min(samples) < 0:
        raise _stuck(f"{min(samples)} ns for one call")


def timer_overhead_ns(args: tuple[Any, ...] = (), clock: Clock = CLOCK, samples: int = 2001) -> float:
    """Median time that an empty function takes in the same loop: a clock reading and a call."""
    from rtaccel import _native

    out = array("q", bytes(8 * samples))
    with quiet():
        n = Loop(_native.nothing, args, clock=clock).fill(out, 0, samples, sys.maxsize)
    return float(statistics.median_high(out[:n]))
