"""The comparison as Markdown: best peers by error class, then every runner of every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers.results import CLASSES, Row, duels

BEGIN, END = "<!-- peers: written by `python -m bench.peers --update-docs` -->", "<!-- peers: end -->"

Found = Mapping[str, Sequence[Row]]
"""Network -> rows."""


def us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def summary(found: Found) -> str:
    """For each network and class: the fastest peer, the fastest of ours, and how many times as fast ours is."""
    heads = [f"{name}, error <= {limit * 100:g} %" for name, limit in CLASSES.items()]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for model, rows in found.items():
        cells = []
        for duel in duels(rows):
            peer = f"{duel.peer.title} {us(duel.peer.best_us)}" if duel.peer else "none"
            ours = f"{duel.ours.title.removeprefix('rtaccel ')} {us(duel.ours.best_us)}" if duel.ours else "none"
            ratio = f"**{duel.ratio:.2f}x**" if duel.ratio else "-"
            cells.append(f"{peer} / {ours}: {ratio}")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(model: str, about: str, rows: Sequence[Row]) -> str:
    lines = [
        f"### {model}: {about}", "",
        "| | p50 us | p99 us | p99.9 us | best round us | error | |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in sorted((r for r in rows if r.left_out is None), key=lambda r: r.best_us or 0.0):
        title = f"**{row.title}**" if row.ours else row.title
        times = " | ".join(us(t) for t in (row.p50_us, row.p99_us, row.p999_us, row.best_us))
        lines.append(f"| {title} | {times} | {row.error:.1e} | {row.note} |")
    left = [f"{row.title} ({row.left_out})" for row in rows if row.left_out is not None]
    if left:
        lines += ["", "Left out: " + "; ".join(left) + "."]
    return "\n".join(lines)


def document(found: Found, about: Mapping[str, str]) -> str:
    return "\n\n".join([summary(found), *(table(model, about[model], rows) for model, rows in found.items())])


def put_between(path: Path, text: str) -> None:
    """Replaces what lies between the markers of a Markdown file. Raises ValueError where it has none."""
    page = path.read_text(encoding="utf-8")
    head, found, rest = page.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
