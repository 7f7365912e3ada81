"""What went through which door: a table by door, and everything odd below it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.zoo.doors.outcome import FAULTS, Doors, Outcome
from bench.zoo.doors.through import DOORS

COLUMNS = ("ok", "refused", "wrong", "failed", "crashed", "timed out", "left out")


def networks(record: Mapping[str, Any]) -> list[Doors]:
    return [Doors.from_json(stored) for stored in record.get("networks", {}).values()]


def counts(found: Iterable[Doors]) -> dict[str, Counter[str]]:
    """Door -> how many networks had each status."""
    table: dict[str, Counter[str]] = {door: Counter() for door in DOORS}
    for one in found:
        for door, outcome in one.by_door.items():
            table.setdefault(door, Counter())[outcome.status] += 1
    return {door: row for door, row in table.items() if row}


def kinds(found: Iterable[Doors], door: str) -> Counter[str]:
    """Types of the errors that a door was refused with."""
    outcomes = (one.by_door[door] for one in found if door in one.by_door)
    return Counter(outcome.kind for outcome in outcomes if outcome.status == "refused")


def worst(found: Iterable[Doors], door: str) -> float | None:
    """The largest error of a door beside float64."""
    errors = [one.by_door[door].error for one in found if door in one.by_door]
    return max((error for error in errors if error is not None), default=None)


def odd(found: Iterable[Doors], statuses: Sequence[str]) -> list[tuple[str, str, list[tuple[str, Outcome]]]]:
    """(door, text with names and figures left out, networks), of outcomes with these statuses, the largest groups first."""
    groups: dict[tuple[str, str], list[tuple[str, Outcome]]] = {}
    for one in found:
        for door, outcome in one.by_door.items():
            if outcome.status in statuses:
                shape = re.sub(r"[\d.]+(e[+-]\d+)?", "N", f"{outcome.status} {outcome.kind} {_got(outcome.text)}")[:110]
                groups.setdefault((door, shape), []).append((one.name, outcome))
    return [(*key, group) for key, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))]


def _got(text: str) -> str:
    """Without the name of the network, which titles begin with."""
    return re.sub(r"got \S+ with ", "got a model with ", text)


def table(found: Sequence[Doors]) -> str:
    """The table as Markdown, with the faults below it; empty where nothing was tried."""
    tried = [one for one in found if one.by_door]
    if not tried:
        return ""
    lines = [
        "| door | networks | ok | refused | at fault | nothing to try | largest error |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for door, row in counts(tried).items():
        error, refused = worst(tried, door), ", ".join(f"{n} `{kind}`" for kind, n in kinds(tried, door).items())
        cells = [door, sum(row.values()), row["ok"] or "-", refused or "-", sum(row[s] for s in FAULTS) or "-"]
        cells += [row["left out"] or "-", "-" if error is None else f"{error:.1e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    faults = [(name, door, outcome) for door, _, group in odd(tried, FAULTS) for name, outcome in group]
    told = [f"- {name}, {door} ({outcome.status}): {outcome.text or outcome.kind}" for name, door, outcome in faults]
    return "\n".join([*lines, *(["", "Faults:", "", *told] if told else [])])


def text(found: Sequence[Doors]) -> str:
    """The table and what is odd, as plain text."""
    statuses = Counter(one.status for one in found)
    lines = [f"{len(found)} networks: " + ", ".join(f"{n} {status}" for status, n in statuses.items()), ""]
    lines += [f"{'door':14}" + "".join(f"{name:>11}" for name in COLUMNS) + "  largest error, refused with"]
    for door, row in counts(found).items():
        error = worst(found, door)
        told = ", ".join(
            [*([] if error is None else [f"{error:.1e}"]), *(f"{n} {kind}" for kind, n in kinds(found, door).items())]
        )
        lines.append(f"{door:14}" + "".join(f"{row[name] or '-':>11}" for name in COLUMNS) + f"  {told}")
    for title, chosen in (("Faults", FAULTS), ("Refused", ("refused",))):
        lines += ["", f"{title}:"]
        for door, shape, group in odd(found, chosen):
            lines += [f"  {door}, {len(group)} networks: {shape}"]
            lines += [f"      {name}: {outcome.kind} {outcome.text[:300]}" for name, outcome in group[:12]]
            lines += [f"      and {len(group) - 12} more"] * (len(group) > 12)
    for one in found:
        if one.status not in ("through", "left out"):
            lines.append(f"{one.name}: {one.status}, {one.reason}")
    return "\n".join(lines)
