"""`Loop`: a model run every period on a native thread, on the freshest value there is."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

from rtaccel import _native as native
from rtaccel.core.errors import BudgetExceeded, FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.core.lead_dims import without_ones
from rtaccel.realtime import threads
from rtaccel.realtime.latest import Latest
from rtaccel.realtime.slots import Slots, any_age_of, input_slots, output_slots
from rtaccel.realtime.stats import LoopStats
from rtaccel.realtime.steps import Made, Port, steps_of

ON_MISS = {"hold": 0, "late": 1, "catch_up": 2, "raise": 3}
ON_STALE = {"hold": 0, "fallback": 1, "raise": 2, "forecast": 3}
ON_OLD = {"step": 0, "hold": 1}
ON_GAP = {"step": 0, "reset": 1}
SPIN_AUTO = -1
SLICE_NS = 50_000_000
"""Between two looks for signals while a loop is waited for."""

_said: set[str] = set()


class Loop:
    """Runs a model every period on a thread of its own, without the GIL: reads the newest value, writes the result.

    model: a compiled model or stream (rt.compile, rt.stream), one from a file (rt.load, without torch), an `rt.Cascade`, a
        `realtime.CStep`, or a Python callable (which takes the GIL: outside of what the loop promises). A list is run as a chain.
    read, write: `rt.Latest` slots of the model's input and output, with or without its batch of one. Of several inputs or
        outputs: a list in their order, or a dict by their names. The loop takes the readers' and writers' sides while it runs.
    period_us, deadline_us: a cycle is due at each grid point start + k * period, and late after the deadline from there.
    max_age_us: an input older than this, from its stamp, is stale. Of several inputs the oldest counts; any_age: names or indices
        of those whose age does not (a set point). Where one was never put the loop waits; where none is new they are used again.
    on_miss: what becomes of a late result. "hold": the last one stays; "late": it is published; in both the grid points it
        covered are skipped. "catch_up": published, and they are run one after another. "raise": the loop ends.
    on_stale: with a stale input. "hold": the last result is published again; "fallback": `fallback` is run in place of the model;
        "forecast": the model is run on what `forecast` makes of the last input, and then of its own; "raise": the loop ends.
    fallback: a smaller model (or a cascade) of the same inputs and outputs in order. One slower than the
        deadline is refused at the start.
    forecast: a model or stream that gives the next inputs from the inputs.
    on_old: an input that is young enough but was used already: "step" runs the model on it again, "hold" does not.
    on_gap: at the first fresh input after a stale one a stream goes on ("step"), or starts anew ("reset").
    pre, post: steps before and after the model, like it.
    priority: of SCHED_FIFO, 1 to 99; None: the scheduling of the caller. cpu: the core to stay on.
    spin_us: so long before its time a cycle wakes, to run the model for nothing (warm=True: its code and weights are then in
        the caches, and its past is put back) and to spin. "auto" learns it: the 99th percentile of how late sleeps end, and
        the warm runs, at most half of the period; `stats().spin_us` has it.
    lock_memory: mlock what the loop touches. strict: what the system does not allow raises; else it is said once.
    name: statistics in shared memory, for `rtaccel top NAME`. simulation: a `realtime.Simulation`; then `run`, not `start`.

    Each result's `origin` says what it is: "fresh", "held", "fallback", "forecast" or "missed"; its stamp is that of its oldest
    input that counts. Several slots are read one after another: they are no joint snapshot.
    A loop starts once. `with` starts and stops it. While it runs, other calls of its models and `os.fork` raise
    UnsupportedProblem. Raises FormatError, ShapeError or UnsupportedProblem for what does not fit, before anything starts.

    Example:
        >>> import torch, rtaccel as rt
        >>> fast = rt.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
        >>> x, y = rt.Latest((3,)), rt.Latest((2,))
        >>> with rt.Loop(fast, read=x, write=y, period_us=2000, deadline_us=2000) as loop:
        ...     while y.get().status == "none":
        ...         _ = x.put(torch.ones(3))
        >>> loop.stats().cycles > 0
        True
    """

    def __init__(
        self,
        model: Any,
        read: Slots,
        write: Slots,
        period_us: float = 1000,
        deadline_us: float = 200,
        max_age_us: float = 3000,
        on_miss: str = "hold",
        on_stale: str = "hold",
        fallback: Any = None,
        forecast: Any = None,
        *,
        on_old: str = "step",
        on_gap: str = "step",
        any_age: Sequence[str | int] = (),
        pre: Any = None,
        post: Any = None,
        priority: int | None = None,
        cpu: int | None = None,
        spin_us: float | str = 80,
        warm: bool = True,
        lock_memory: bool = True,
        strict: bool = False,
        name: str | None = None,
        simulation: Any = None,
    ) -> None:
        self.name, self._lock, self._pid = name, lock_memory, os.getpid()
        self._raised: list[BaseException] = []
        self._begun = self._started = self._ended = False
        chain = [*_listed(pre), *_listed(model), *_listed(post)]
        names, inputs = input_slots("Loop", chain, read)
        outputs = output_slots("Loop", chain, write)
        settings: dict[str, int] = {
            "priority": 0 if priority is None else _whole("priority", priority, 1, 99),
            "cpu": -1 if cpu is None else _whole("cpu", cpu, 0, 4095),
            "warm": bool(warm),
            "lock_memory": bool(lock_memory),
            "strict": bool(strict),
            "any_age": any_age_of(names, any_age),
        }
        period = settings["period_ns"] = _ns(
            "period_us", period_us, 1_000, 3_600_000_000_000, "microseconds, 1 to 3.6e9"
        )
        within = f"microseconds, more than 0 and at most period_us={period_us!r}"
        settings["deadline_ns"] = _ns("deadline_us", deadline_us, 1, period, within)
        settings["max_age_ns"] = _ns("max_age_us", max_age_us, 1, 2**62, "microseconds, more than 0 and at most 4.6e15")
        shorter = f"'auto', or microseconds, 0 or more and less than period_us={period_us!r}"
        settings["spin_ns"] = SPIN_AUTO if spin_us == "auto" else _ns("spin_us", spin_us, 0, period - 1, shorter)
        for key, value, known in (
            ("on_miss", on_miss, ON_MISS),
            ("on_stale", on_stale, ON_STALE),
            ("on_old", on_old, ON_OLD),
            ("on_gap", on_gap, ON_GAP),
        ):
            if value not in known:
                raise FormatError("Loop", f"{key}={value!r}", " or ".join(map(repr, known)), "Pass one of them.")
            settings[key] = known[value]
        self._plans: list[Any] = []
        self._python: list[str] = []
        steps = self._fitted("the model", chain, inputs, outputs)
        others = [] if fallback is None else self._fitted("the fallback", _listed(fallback), inputs, outputs)
        ahead = [] if forecast is None else self._fitted("the forecast", _listed(forecast), inputs, inputs)
        world = None if simulation is None else simulation.native
        self._simulated = world is not None
        try:
            self._native = native.LoopHandle(inputs, outputs, steps, others, ahead, settings, name, world)
        except ValueError as error:
            raise FormatError("Loop", str(error), "settings that fit together", "See rt.Loop.") from None
        self._inputs = inputs

    def every(self, n: int, model: Any, write: Slots, read: Slots | None = None) -> Loop:
        """Runs another model in every n-th period, after the first one's result is out. Before the start.

        model, read, write: as those of the loop; read=None: the loop's own inputs, in their order.

        Raises as the loop itself.
        """
        _whole("n", n, 1, 2**40)
        chain = _listed(model)
        inputs = [] if read is None else input_slots("every", chain, read)[1]
        outputs = output_slots("every", chain, write)
        steps = self._fitted("every()", chain, inputs or self._inputs, outputs)
        try:
            self._native.every(n, steps, inputs, outputs)
        except ValueError as error:
            raise FormatError(
                "every", str(error), "a loop that has not started, and slots that fit", "See rt.Loop."
            ) from None
        return self

    def start(self) -> Loop:
        """Measures the fallback, takes the slots and starts the thread.

        Raises BudgetExceeded for a fallback slower than the deadline, UnsupportedProblem where a model or slot is in use, where
        the loop has run before, and with strict=True where the system refuses something.
        """
        self._here("start")
        if self._simulated:
            raise UnsupportedProblem("start", "a simulated loop", "one on this machine's clock", "Call run(cycles).")
        if self._begun:  # the native side would first give back the models that its thread runs
            raise UnsupportedProblem(
                "start", f"{self!r}, which was started before", "a new loop: a loop starts once", "Make another loop."
            )
        self._begun = True
        try:
            refused = [self._prefault()]
            refused.append(self._native.start())
        except BaseException as error:
            self._begun = False  # nothing runs: a start that was refused can be tried again
            if not isinstance(error, ValueError) or isinstance(error, RtaccelError):
                raise
            text = str(error)
            if "the fallback takes" in text:
                raise BudgetExceeded("start", text, "a fallback within deadline_us", "Take a smaller one.") from None
            raise UnsupportedProblem(
                "start",
                text,
                "models and slots of its own, and a system that allows what strict=True asks",
                "See rt.realtime.check(), or make another loop.",
            ) from None
        self._started = True
        threads.keep(self)
        for text in filter(None, refused):
            if text not in _said:
                _said.add(text)
                warnings.warn(
                    f"the loop runs without what the system refused ({text}); rt.realtime.check() says how to get it",
                    UserWarning,
                    stacklevel=2,
                )
        return self

    def run(self, cycles: int) -> None:
        """In this thread and simulated time, so many more grid points. Raises what ended the loop."""
        if not self._simulated:
            raise UnsupportedProblem("run", "a loop on this machine's clock", "simulation=", "Call start().")
        _whole("cycles", cycles, 1, 2**60)
        try:
            self._native.run(cycles)
        except ValueError as error:
            self._failed()
            raise UnsupportedProblem("run", str(error), "free models and slots", "Stop the other loop.") from None

    def stop(self) -> None:
        """Ends the loop after its cycle, and gives its slots back. What the loop failed of is raised by `join` and `stats`.

        Before the start it does nothing: the loop can be started afterwards. One of the loop's own callables may call it: it then
        returns at once, and the loop ends after this cycle."""
        self._here("stop")
        if not self._begun and not self._simulated:
            return
        self._native.stop()
        if not self._inside():
            self._wait(None)

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the loop has ended (by `stop` of another thread, or by itself); False after a timeout in seconds.

        Raises what ended it: BudgetExceeded for on_miss or on_stale "raise", FormatError for an input that a model refuses,
        or what a Python callable raised. UnsupportedProblem in the loop's own thread, which would wait for itself.
        """
        self._here("join")
        if self._inside():
            raise UnsupportedProblem(
                "join", "a callable of the loop", "another thread", "Call stop() there, and join() outside."
            )
        if not self._started or self._simulated:
            raise UnsupportedProblem("join", "a loop without a thread", "one that was started", "Call start().")
        ended = self._wait(timeout)
        if ended:
            self._failed()
        return ended

    def stats(self, check: bool = True) -> LoopStats:
        """What was counted so far. Raises what ended the loop, as `join` does; check=False: not."""
        self._here("stats")
        if check:
            self._failed()
        return LoopStats.of(native.loop_snapshot(self._native.stats), self.name)

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._started and not self._ended and native.loop_snapshot(self._native.stats)["state"] == 1

    def __enter__(self) -> Loop:
        return self if self._simulated else self.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._simulated:
            return
        self.stop()
        if kind is None:
            self._failed()

    def __repr__(self) -> str:
        state = "simulated" if self._simulated else "running" if self.running else "ended" if self._ended else "made"
        return f"Loop({self.name or ''}{', ' if self.name else ''}{state})"

    def _fitted(self, what: str, chain: list[Any], read: list[Latest], write: list[Latest]) -> list[Any]:
        made: Made = steps_of(what, chain, [(slot.shape, slot.dtype) for slot in read], self._raised)
        taken = [(slot.shape, slot.dtype) for slot in write]
        if [(without_ones(shape), dtype) for shape, dtype in made.ports] != [(without_ones(s), d) for s, d in taken]:
            raise ShapeError(
                "Loop",
                f"{_described(made.ports)} from {what}",
                f"{_described(taken)}, what its slots take"
                if len(taken) > 1
                else f"{_described(taken)}, what its slot takes",
                "Make a slot of each of the model's outputs.",
            )
        self._plans += made.plans
        self._python += made.in_python
        return made.steps

    def _prefault(self) -> str:
        refused = ""
        for plan in self._plans:
            plan.prefault()
            if self._lock:
                try:
                    plan.lock()
                except (RuntimeError, ValueError) as error:
                    refused = f"mlock of the model: {error}"
        return refused

    def _wait(self, timeout: float | None) -> bool:
        left = math.inf if timeout is None else timeout * 1e9
        while True:
            slice_ns = int(min(left, SLICE_NS))
            if self._native.wait(max(slice_ns, 0)) > 0:  # between two of them Python sees signals
                self._ended = True
                threads.forget(self)
                return True
            left -= slice_ns
            if left <= 0:
                return False

    def _inside(self) -> bool:
        """Whether this is the loop's own thread."""
        return self._begun and bool(self._native.wait(0) < 0)

    def _end(self, timeout: float) -> None:
        self._native.stop()
        self._wait(timeout)

    def _failed(self) -> None:
        text = self._native.failure
        if text is None:
            return
        if self._raised:
            raise self._raised[-1]
        by = native.loop_snapshot(self._native.stats)["failed_by"]
        kind: type[RtaccelError] = FormatError if by == 3 else BudgetExceeded
        raise kind(
            "loop",
            text,
            "inputs and a machine in time, or another on_stale and on_miss",
            "See loop.stats(check=False).",
        )

    def _here(self, op: str) -> None:
        if os.getpid() != self._pid:
            raise UnsupportedProblem(
                op,
                "a loop of the process that forked this one",
                "one of this process",
                "Make and start loops after the fork.",
            )


def _described(ports: list[Port]) -> str:
    return " and ".join(f"{dtype}{list(shape)}" for shape, dtype in ports)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError("Loop", f"{name}={value!r}", f"a whole number, {low} to {high}", "Pass one.")
    return value


def _ns(name: str, us: Any, least: int, most: int, expected: str) -> int:
    try:
        ns = round(float(us) * 1e3) if isinstance(us, Real) else -1  # float() reads texts too
    except (ValueError, OverflowError):
        ns = -1
    if isinstance(us, bool) or not least <= ns <= most:
        raise FormatError("Loop", f"{name}={us!r}", expected, "Pass such a number.")
    return ns


def _listed(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
