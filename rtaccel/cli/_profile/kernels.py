"""The one table that every profiler's output is read into: a row for each kernel, the longest in sum first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rtaccel.measure.numbers import figure


@dataclass(frozen=True)
class KernelTime:
    """calls: how often it ran. total_us: their sum; min_us, max_us: None where the profiler does not say.
    extra: further figures by name, as the profiler calls them, for one call."""

    name: str
    calls: int
    total_us: float
    min_us: float | None = None
    max_us: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_us(self) -> float:
        return self.total_us / self.calls if self.calls else 0.0


def ordered(found: Iterable[KernelTime]) -> list[KernelTime]:
    return sorted(found, key=lambda kernel: (-kernel.total_us, kernel.name))


def merged(found: Iterable[KernelTime]) -> list[KernelTime]:
    """Rows of one name become one; extra figures become the mean over calls."""
    by_name: dict[str, list[KernelTime]] = {}
    for kernel in found:
        by_name.setdefault(kernel.name, []).append(kernel)
    return ordered(_merge(rows) for rows in by_name.values())


def _merge(rows: list[KernelTime]) -> KernelTime:
    calls = sum(row.calls for row in rows)
    lows = [row.min_us for row in rows if row.min_us is not None]
    highs = [row.max_us for row in rows if row.max_us is not None]
    names = dict.fromkeys(name for row in rows for name in row.extra)
    extra = {}
    for name in names:
        having = [row for row in rows if name in row.extra]
        extra[name] = sum(row.extra[name] * row.calls for row in having) / max(sum(row.calls for row in having), 1)
    total = sum(row.total_us for row in rows)
    return KernelTime(rows[0].name, calls, total, min(lows, default=None), max(highs, default=None), extra)


def as_json(found: Iterable[KernelTime]) -> list[dict[str, Any]]:
    return [asdict(kernel) | {"mean_us": kernel.mean_us} for kernel in found]


def table(found: list[KernelTime]) -> str:
    """Aligned columns."""
    total = sum(kernel.total_us for kernel in found) or 1.0
    extras = list(dict.fromkeys(name for kernel in found for name in kernel.extra))
    cells = [("kernel", "calls", "mean us", "min us", "max us", "share", *extras)]
    for kernel in found:
        figures = (kernel.mean_us, kernel.min_us, kernel.max_us)
        cells.append(
            (
                kernel.name if len(kernel.name) <= 60 else kernel.name[:59] + "…",
                f"{kernel.calls:,}",
                *("" if us is None else figure(us) for us in figures),
                f"{100 * kernel.total_us / total:.1f} %",
                *(figure(kernel.extra[name]) if name in kernel.extra else "" for name in extras),
            )
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    )
