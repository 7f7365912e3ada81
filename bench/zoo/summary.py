"""What the surveys of all networks say together: how many are native, and which operator keeps how many from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.zoo.survey import STATUSES, Survey

CAPTURED = ("native", "partial")
COUNTED = tuple(s for s in STATUSES if s not in ("left out", "broken"))
"""What is a result of ours; the other two say that the network itself was not to be had."""


@dataclass
class Missing:
    """An operator that falls back. alone: networks that would be wholly native with it. tight: those with it and two more."""

    operator: str
    networks: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    tight: list[str] = field(default_factory=list)
    calls: int = 0
    reasons: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    """Two calls of each network, before further ones."""


def surveys(record: Mapping[str, Any]) -> list[Survey]:
    return [Survey.from_json(stored) for stored in record.get("networks", {}).values()]


def missing(found: Iterable[Survey]) -> list[Missing]:
    """Operators by the number of networks that they keep from being native, the most first."""
    by_name: dict[str, Missing] = {}
    for one in found:
        for fallback in one.fallbacks:
            row = by_name.setdefault(fallback.operator, Missing(fallback.operator))
            row.networks.append(one.name)
            if len(one.fallbacks) == 1:
                row.alone.append(one.name)
            if len(one.fallbacks) <= 3:
                row.tight.append(one.name)
            row.calls += fallback.count
            row.reasons += [r for r in fallback.reasons if r not in row.reasons]
            row.arguments += [a for a in fallback.arguments[:2] if a not in row.arguments]
    return sorted(by_name.values(), key=lambda row: (-len(row.networks), -len(row.alone), row.operator))


def order(found: Iterable[Survey]) -> list[tuple[str, int]]:
    """In which order operators would make networks native soonest, and how many are native with all up to there.

    Each time the operator is taken that has the largest sum, over networks still waiting for it, of 1 over what they wait for.
    """
    waiting = {one.name: {f.operator for f in one.fallbacks} for one in found if one.status == "partial"}
    steps: list[tuple[str, int]] = []
    done = 0
    while waiting:
        worth: dict[str, float] = {}
        for left in waiting.values():
            for operator in left:
                worth[operator] = worth.get(operator, 0.0) + 1 / len(left)
        best = max(sorted(worth), key=lambda name: worth[name])
        for name in list(waiting):
            waiting[name].discard(best)
            if not waiting[name]:
                del waiting[name]
                done += 1
        steps.append((best, done))
    return steps


def failures(found: Iterable[Survey]) -> list[tuple[str, list[Survey]]]:
    """Networks that were not captured, refused, or failed, grouped by reason with names and figures left out."""
    groups: dict[str, list[Survey]] = {}
    for one in found:
        if one.status in COUNTED and one.status not in CAPTURED:
            groups.setdefault(f"{one.status}: {_shape_of(one.reason)}", []).append(one)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _shape_of(reason: str) -> str:
    return re.sub(r"\d+", "N", reason.split(": ", 1)[-1])[:80]


def heads(found: Sequence[Survey]) -> dict[str, int]:
    """How many networks have each status."""
    return {status: sum(one.status == status for one in found) for status in STATUSES}


def share_native(found: Sequence[Survey]) -> float:
    """Of the networks that were to be had, those that are wholly native."""
    counted = [one for one in found if one.status in COUNTED]
    return sum(one.status == "native" for one in counted) / len(counted) if counted else 0.0


def survey_text(found: Sequence[Survey]) -> str:
    """A line per network, as plain text."""
    counts = ", ".join(f"{count} {status}" for status, count in heads(found).items() if count)
    lines = [f"{len(found)} networks: {counts}", f"wholly native: {share_native(found):.0%} of those that run here", ""]
    for one in sorted(found, key=lambda s: (STATUSES.index(s.status), s.domain, s.name)):
        share = f"{one.native}/{one.stages}" if one.stages else "-"
        figures = [_figure(one.error), _figure(one.error_other), _figure(one.eager_error)]
        seconds = f"{one.compile_seconds:.1f} s" if one.compile_seconds is not None else "-"
        operators = ", ".join(f"{f.count}x {f.operator}" for f in one.fallbacks)
        why = "; ".join(filter(None, (operators, one.reason, one.other, one.touched)))
        columns = (f"{one.name:28}", f"{one.domain:12}", f"{one.status:12}", f"{share:>8}", f"{seconds:>8}")
        lines.append(" ".join(columns) + " " + " ".join(f"{f:>8}" for f in figures) + f"  {why}")
    return "\n".join(lines)


def missing_text(found: Sequence[Survey]) -> str:
    """The operators that fall back, and the failures of capture, as plain text."""
    lines = ["Order that makes networks native soonest (operator: partial networks that are native by then):"]
    lines += [f"    {operator}: {done}" for operator, done in order(found)] + [""]
    for row in missing(found):
        lines.append(
            f"{row.operator}: {len(row.networks)} networks, alone in {len(row.alone)}, with at most two others in "
            f"{len(row.tight)}, {row.calls} calls"
        )
        lines += [f"    reason: {reason}" for reason in row.reasons[:4]]
        lines += [f"    {arguments}" for arguments in row.arguments[:12]]
        lines += [f"    in: {', '.join(row.networks)}", ""]
    for reason, group in failures(found):
        lines.append(f"{reason}: {len(group)} networks")
        lines += [f"    {one.name}: {one.reason}" for one in group] + [""]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
