"""The text of `explain()`: every stage, the kernel chosen, what was rejected and why, and what it must move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rtaccel.core.registry import operator
from rtaccel.core.traits import FALLBACK
from rtaccel.plan.choose import Choice
from rtaccel.plan.timing import time_stage

REJECTED = "not "
"""How the reason of a kernel that was rejected begins."""


@dataclass(frozen=True)
class Line:
    """One stage of a report. us: measured time of the stage on one thread, where it was measured. parts: how many
    threads share it."""

    name: str
    what: str
    kernel: str
    bytes: int | None
    flops: int | None
    reasons: tuple[str, ...]
    us: float | None = None
    parts: int = 1

    @property
    def is_fallback(self) -> bool:
        """Whether it is a call that stays PyTorch's."""
        return self.kernel == FALLBACK


def line(choice: Choice, measure: bool = True, parts: int = 1, seen: bool = False) -> Line:
    """seen: the result is seen where the input lies, so that nothing is moved."""
    cost = operator(choice.stage.op).cost(choice.problem)
    act = choice.stage.attrs.get("activation", "none")
    what = str(choice.problem) + ("" if act == "none" else f" + {act}")
    because = () if choice.impl.why is None else (choice.impl.why(choice.problem),)
    reasons = (*because, *(f"{REJECTED}{name}: {reason}" for name, reason in choice.rejected))
    if seen:
        return Line(choice.stage.name, what, "in place", 0, 0, reasons, 0.0 if measure else None, parts)
    us = time_stage(choice) if measure else None
    return Line(choice.stage.name, what, choice.impl.name, cost.bytes, cost.flops, reasons, us, parts)


def _amount(value: int | None, unit: str) -> str:
    if value is None:
        return "-"
    for prefix in ("", "k", "M", "G"):
        if value < 10_000:
            return f"{value:.0f} {prefix}{unit}"
        value = round(value / 1000)
    return f"{value} T{unit}"


def table(lines: Iterable[Line], verbose: bool = True) -> str:
    """Aligned columns. Below them why calls fall back to PyTorch, and with `verbose` why kernels were rejected.
    Equal reasons stand once.
    """
    lines = list(lines)
    cut = any(entry.parts > 1 for entry in lines)
    rows = [("", "stage", "computes", "kernel", "moves", "does", "us", *(("threads",) if cut else ()))]
    notes: dict[tuple[str, ...], list[int]] = {}
    for index, entry in enumerate(lines, 1):
        us = "-" if entry.us is None else f"{entry.us:.2f}"
        amounts = (_amount(entry.bytes, "B"), _amount(entry.flops, "op"))
        rows.append(
            (str(index), entry.name, entry.what, entry.kernel, *amounts, us, *((str(entry.parts),) if cut else ()))
        )
        shown = tuple(r for r in entry.reasons if verbose or not r.startswith(REJECTED))
        notes.setdefault(shown, []).append(index)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    for reasons, indices in notes.items():
        if reasons:
            text.append(f"stages {_ranges(indices)}:")
            text.extend(f"  {reason}" for reason in reasons)
    return "\n".join(text)


def _ranges(indices: list[int]) -> str:
    parts: list[list[int]] = []
    for i in indices:
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
