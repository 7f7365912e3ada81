"""The comparison as Markdown: the duels of each error class, and every runner of every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers.results import CLASSES, Duel, Row, distinct, duels

BEGIN, END = "<!-- peers: written by `python -m bench.peers --update-docs` -->", "<!-- peers: end -->"

Found = Mapping[str, Sequence[Row]]
"""Network -> rows."""


def us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def heading(limit: str) -> str:
    return f"{limit}: error at most {CLASSES[limit] * 100:g} %"


def summary(found: Found) -> str:
    """A table for each class: the fastest peer, the fastest of ours in its three forms, and how many times as fast it is."""
    return "\n\n".join(_class(found, limit) for limit in CLASSES)


def _class(found: Found, limit: str) -> str:
    lines = [
        f"| {heading(limit)} | fastest peer | us | rtaccel | error | bind | run | call | ratio |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    same = []
    for model, rows in found.items():
        duel = next((d for d in distinct(duels(rows)) if d.limit == limit), None)
        if duel is None:
            same.append(model)
        else:
            lines.append(_line(model, duel))
    if same:
        lines += ["", f"The same two as in the class above: {', '.join(same)}."]
    return "\n".join(lines)


def _line(model: str, duel: Duel) -> str:
    peer, ours = duel.peer, duel.ours
    left = f"{peer.title} | {us(peer.best_us)}" if peer else "none | -"
    right = "none | - | - | - | -"
    if ours:
        times = " | ".join(us(t) for t in (ours.best_us, ours.run_us, ours.call_us))
        right = f"{_short(ours)} | {ours.error:.1e} | {times}"
    return f"| {model} | {left} | {right} | {_ratio(duel)} |"


def _short(row: Row) -> str:
    return row.title.removeprefix("rtaccel ")


def _ratio(duel: Duel) -> str:
    return f"**{duel.ratio:.2f}x**" if duel.ratio else "-"


def cold(found: Found) -> str:
    """The duels with cold caches, of the networks that were timed so."""
    lines = ["| | " + " | ".join(heading(limit) for limit in CLASSES) + " |", "|---" * (len(CLASSES) + 1) + "|"]
    for model, rows in found.items():
        if not any(row.cold_us for row in rows):
            continue
        cells = []
        for duel in duels(rows, "cold_us"):
            peer = f"{duel.peer.title} {us(duel.peer.cold_us)}" if duel.peer else "none"
            ours = f"{_short(duel.ours)} {us(duel.ours.cold_us)}" if duel.ours else "none"
            cells.append(f"{peer} / {ours} / {_ratio(duel)}")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(model: str, about: str, rows: Sequence[Row]) -> str:
    """Every runner of a network, by the best round. Columns that no row fills are left out."""
    columns = {
        "best round": "best_us", "its p99": "best_p99_us", "p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us",
        "run": "run_us", "call": "call_us", "cold": "cold_us",
    }  # fmt: skip
    shown = [row for row in rows if row.left_out is None]
    filled = {head: name for head, name in columns.items() if any(getattr(r, name) is not None for r in shown)}
    lines = [
        f"### {model}: {about}", "",
        f"| us | {' | '.join(filled)} | error | |", f"|---|{'--:|' * len(filled)}--:|---|",
    ]  # fmt: skip
    for row in sorted(shown, key=lambda r: r.best_us or 0.0):
        title = f"**{row.title}**" if row.ours else row.title
        times = " | ".join(us(getattr(row, name)) for name in filled.values())
        lines.append(f"| {title} | {times} | {row.error:.1e} | {row.note} |")
    left = [f"{row.title} ({row.left_out})" for row in rows if row.left_out is not None]
    if left:
        lines += ["", "Left out: " + "; ".join(left) + "."]
    return "\n".join(lines)


def put_between(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replaces what lies between the markers of a Markdown file. Raises ValueError where it has none."""
    page = path.read_text(encoding="utf-8")
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{path} has no {begin} ... {end}")
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")
