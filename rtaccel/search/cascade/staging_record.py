"""What is known of a plan that leaves early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtaccel.core.scheme import Scheme
from rtaccel.search.cascade.exits import Exit


@dataclass(frozen=True)
class Staging:
    """How a candidate of `rt.fit_budget` leaves early.

    names: of the stages, in order. schemes: of the layers of each, as `rt.compile` takes them; None where a stage came compiled.
    exits: the test after each stage but the last. shares: of the calibration rows that each stage answers.
    mean_us: of a call, over the calibration rows. alone_us: of the last stage alone, timed in turn with it. worst_us: of a call
    that goes through all stages. None until they are measured.
    """

    names: tuple[str, ...]
    schemes: tuple[dict[str, Scheme] | None, ...]
    exits: tuple[Exit, ...]
    shares: tuple[float, ...]
    mean_us: float | None = None
    alone_us: float | None = None
    worst_us: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "stages": list(self.names),
            "schemes": [None if s is None else {n: str(v) for n, v in s.items()} for s in self.schemes],
            "exits": [repr(one) for one in self.exits],
            "shares": list(self.shares),
            "mean_us": self.mean_us, "alone_us": self.alone_us, "worst_us": self.worst_us,
        }  # fmt: skip
