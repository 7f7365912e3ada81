"""What a machine can do at most, and how near to it the stages of a call come.

A stage that moves `bytes` and does `macs` multiply-adds takes at least max(bytes / bandwidth, macs / peak): the roofline
(S. Williams, A. Waterman and D. Patterson, Roofline: an insightful visual performance model, CACM 52, 2009).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rtaccel.measure.stages import StageProfile


@dataclass(frozen=True)
class Bandwidth:
    """A slope. name: where the bytes lie. gb_s: bytes per nanosecond."""

    name: str
    gb_s: float


@dataclass(frozen=True)
class Peak:
    """A level. name: the arithmetic. macs_ns: multiply-adds per nanosecond."""

    name: str
    macs_ns: float


@dataclass(frozen=True)
class Roofline:
    """Slopes and levels of one machine, and how they were found (measured, or from a data sheet)."""

    bandwidths: tuple[Bandwidth, ...]
    peaks: tuple[Peak, ...]
    source: str

    def floor_us(self, bytes: int, macs: int) -> float:
        """The least time of a stage, by the best slope and the best level."""
        moved = bytes / max(b.gb_s for b in self.bandwidths)
        return max(moved, macs / max(p.macs_ns for p in self.peaks)) / 1e3

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def points(profile: StageProfile) -> list[tuple[str, float, float]]:
    """(stage, multiply-adds per byte, multiply-adds per ns) of the stages that have both."""
    return [
        (stage.name, stage.macs / stage.bytes, stage.macs_ns)
        for stage in profile.stages
        if stage.macs and stage.bytes and stage.macs_ns
    ]
