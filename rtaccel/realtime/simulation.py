"""A simulated world for a loop: a clock that runs as fast as the processor, and what goes wrong injected by a seed."""

from __future__ import annotations

from typing import Any

from rtaccel import _native as native
from rtaccel.core.errors import FormatError
from rtaccel.realtime.steps import SimulatedModel

TIMES = ("produce", "delay", "gap", "clock", "wake", "stall", "step", "slow", "sleep")
SHARES = ("p_gap", "p_burst", "p_reorder", "p_clock", "p_stall", "p_slow")


class Simulation:
    """Puts measurements into a slot and wakes a loop, in simulated time: `rt.Loop(..., simulation=world)`, then `loop.run(n)`.

    slot: that the loop reads; of 8 bytes or more. The first 8 bytes of a value are the number of its measurement.
    seed: the same seed gives the same world.
    options: times in us, and shares (p_...) from 0 to 1. Measurements come every produce_us and arrive up to delay_us later.
        p_gap of them begin a gap of half to one and a half times gap_us; in p_burst of the gaps the values come at the end, all
        at once, and in the others they are lost. p_reorder are overtaken by the next two. At p_clock the producer's clock steps
        by clock_us, there or back. Sleeps end up to sleep_us late; cycles begin up to
        wake_us late, and p_stall of them up to stall_us late. `model()` takes step_us, and in p_slow of the steps slow_us.

    `counts()` has what was injected, and `cycles`, `stale`, `misses`, `skipped`, `fresh` and `waiting` as a loop should count
    them, by rules of its own. Raises FormatError for options that there are not.
    """

    def __init__(self, slot: Any, seed: int = 0, **options: float) -> None:
        self.native: Any = None
        self._put(slot, seed, options)

    def add(self, slot: Any, seed: int = 0, **options: float) -> Simulation:
        """Another slot of the same loop, with a producer of its own: options as above, but for those of the loop and the
        model (wake, stall, step, slow, sleep). An input is then as old as its oldest slot. `counts()` has the measurements of
        all slots.
        """
        self._put(slot, seed, options)
        return self

    def _put(self, slot: Any, seed: int, options: dict[str, float]) -> None:
        theirs = () if self.native is None else ("wake", "stall", "step", "slow", "sleep")
        known = {
            *(f"{t}_us" for t in TIMES if t not in theirs),
            *(p for p in SHARES if p.removeprefix("p_") not in theirs),
        }
        wrong = sorted(set(options) - known)
        if wrong or options.get("produce_us", 0) <= 0:
            raise FormatError(
                "Simulation",
                f"options {wrong}" if wrong else "no produce_us",
                ", ".join(sorted(known)),
                "See the docstring.",
            )
        raw = {f"{t}_ns": round(options.get(f"{t}_us", 0) * 1e3) for t in TIMES}
        given = {"seed": seed, **raw, **{name: float(options.get(name, 0)) for name in SHARES}}
        try:
            if self.native is None:
                self.native = native.LoopSim(given, slot)
            else:
                self.native.add(given, slot)
        except ValueError as error:
            raise FormatError(
                "Simulation", f"{slot!r}: {error}", "a free slot of 8 bytes or more", "Make one."
            ) from None

    def model(self) -> SimulatedModel:
        """A model that takes step_us of simulated time and gives its inputs."""
        return SimulatedModel(self.native)

    def calm(self) -> None:
        """From here on nothing goes wrong any more."""
        self.native.calm()

    def counts(self) -> dict[str, int]:
        """What was injected, and what a loop should count of it."""
        return dict(self.native.counts())
