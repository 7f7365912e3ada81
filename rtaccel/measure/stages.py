"""Where the time of one call goes: a row for each stage, and what its speed means against what it must move and do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.tables import Table, Tabled


@dataclass(frozen=True)
class StageTime:
    """One part of a call. us: median over the calls, one reading of the clock included. p99_us: nearest rank.

    name: of the module it came from. what: the problem in words. kernel: what computes it.
    bytes, macs: what it must at least move, and its multiply-adds; None where that is not known (a torch call).
    threads: how many share it.
    """

    name: str
    what: str
    kernel: str
    us: float
    p99_us: float
    bytes: int | None = None
    macs: int | None = None
    threads: int = 1

    @property
    def gb_s(self) -> float | None:
        """Bytes per nanosecond."""
        return self.bytes / self.us / 1e3 if self.bytes and self.us > 0 else None

    @property
    def macs_ns(self) -> float | None:
        return self.macs / self.us / 1e3 if self.macs and self.us > 0 else None


@dataclass(frozen=True)
class StageProfile(Tabled):
    """stages: in the order they run. whole_us: median of calls that were not cut into parts; None where the model has
    none, as it is no single native call. reading_ns: what one reading of the clock costs; every part includes one.
    calls: of each kind. notes: what the figures are not.
    """

    stages: tuple[StageTime, ...]
    whole_us: float | None
    reading_ns: float
    calls: int
    notes: tuple[str, ...] = ()

    @property
    def sum_us(self) -> float:
        return sum(stage.us for stage in self.stages)

    def share(self, stage: StageTime) -> float:
        """Of the sum of all parts, 0..1."""
        return stage.us / self.sum_us if self.sum_us > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        rows = [
            asdict(stage) | {"share": self.share(stage), "gb_s": stage.gb_s, "macs_ns": stage.macs_ns}
            for stage in self.stages
        ]
        figures = {"whole_us": self.whole_us, "sum_us": self.sum_us, "reading_ns": self.reading_ns, "calls": self.calls}
        return figures | {"stages": rows, "notes": list(self.notes)}

    def records(self) -> list[dict[str, Any]]:
        """A row for each part of a call."""
        return list(self.to_dict()["stages"])

    def table(self) -> Table:
        return Table("Where the time goes", HEAD, rows(self), text=2, notes=[summary(self), *self.notes])

    def __str__(self) -> str:
        return table(self)


@dataclass(frozen=True)
class ModuleTime:
    """The stages of one module together. us: the sum of their medians. p99_us: of a single stage; None for several, whose
    percentiles do not add up. kernels: each once.
    """

    name: str
    us: float
    p99_us: float | None
    kernels: tuple[str, ...]
    stages: int


def by_module(profile: StageProfile) -> list[ModuleTime]:
    """In the order in which they first run. What is done to a module's input, "net.0 (input)", is the module's."""
    parts: dict[str, list[StageTime]] = {}
    for stage in profile.stages:
        parts.setdefault(stage.name.removesuffix(" (input)"), []).append(stage)
    return [
        ModuleTime(
            name, sum(s.us for s in of), of[0].p99_us if len(of) == 1 else None,
            tuple(dict.fromkeys(s.kernel for s in of)), len(of),
        )
        for name, of in parts.items()
    ]  # fmt: skip


HEAD = ("stage", "kernel", "us", "share", "bytes", "GB/s", "MAC/ns")


def rows(profile: StageProfile) -> list[tuple[str, ...]]:
    """Cells of the table, without its head; an empty one where there is nothing to say."""
    return [
        (
            stage.name,
            stage.kernel + (f" x{stage.threads}" if stage.threads > 1 else ""),
            _number(stage.us),
            f"{100 * profile.share(stage):.1f} %",
            "" if stage.bytes is None else f"{stage.bytes:,}",
            "" if stage.gb_s is None else _number(stage.gb_s),
            "" if stage.macs_ns is None else _number(stage.macs_ns),
        )
        for stage in profile.stages
    ]


def table(profile: StageProfile) -> str:
    """Aligned columns, the sum, and what the sum is to be compared with."""
    cells: Sequence[tuple[str, ...]] = [HEAD, *rows(profile)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    ]
    lines.append(summary(profile))
    return "\n".join([*lines, *(f"note: {note}" for note in profile.notes)])


def summary(profile: StageProfile) -> str:
    text = f"parts {_number(profile.sum_us)} us"
    if profile.whole_us is not None:
        text += f", the whole call {_number(profile.whole_us)} us"
    return (
        f"{text}: medians of {profile.calls:,} calls; a reading of the clock takes {profile.reading_ns:.0f} ns and "
        "is in every part"
    )


def _number(value: float) -> str:
    return figure(value, 3)
