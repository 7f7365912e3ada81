"""A fit as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtaccel.measure.numbers import figure
from rtaccel.search.front import Candidate

if TYPE_CHECKING:
    from rtaccel.search.fit import Fit

MAX_ROWS = 12
"""Candidates of the front in a text."""


def text(fit: Fit) -> str:
    """The verdict, the plan layer by layer, the front and the notes."""
    parts = [f"{fit.verdict}  {fit.reason}", ""]
    if fit.best is not None:
        parts += [_grid([("layer", "weights", "computed as", "alone: drop", "error", "us"), *_layers(fit)]), ""]
    rows = shown(fit)
    parts.append(_grid([("plan", "us", "predicted", "drop", "predicted", "bytes", "verdict"), *map(row, rows)]))
    left = len(fit.candidates) - len(rows)
    parts.append(f"{left} more plans were judged. " * (left > 0) + f"Searched for {fit.seconds:.1f} s.")
    parts += [f"note: {note}" for note in fit.notes]
    return "\n".join(parts)


def shown(fit: Fit) -> list[Candidate]:
    """Of the front, with the best and the one in float32; evenly where there are many."""
    chosen = list(fit.front)
    if len(chosen) > MAX_ROWS:
        chosen = [chosen[round(i * (len(chosen) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]
    more = [c for c in fit.candidates if c is fit.best or c.reference or c.latency is not None]
    return sorted({id(c): c for c in (*chosen, *more)}.values(), key=lambda c: c.time_us)


def judged(c: Candidate) -> str:
    """What the metric says of a candidate that was not measured."""
    if c.keeps is None:
        return ""
    if c.keeps:
        return "keeps the drop"
    return "drop too large" if c.drop_error is None else "drop not sure"


def row(c: Candidate) -> tuple[str, ...]:
    drop = "" if c.drop is None else figure(c.drop, 3)
    if c.drop_error is not None:
        drop += f" ± {c.drop_error:.1g}"
    kept = c.verdict or judged(c)
    return (
        c.name, _number(c.us), _number(c.predicted_us), drop, _number(c.predicted_drop),
        "" if c.size_bytes is None else f"{c.size_bytes:,}", kept if c.fits else "too large",
    )  # fmt: skip


def _layers(fit: Fit) -> list[tuple[str, ...]]:
    assert fit.best is not None
    found = {(s.layer, s.option): s for s in fit.sensitivity}
    rows: list[tuple[str, ...]] = []
    for layer in fit.layers:
        scheme = fit.best.scheme[layer.name]
        s = found.get((layer.name, scheme))
        alone = ("", "", "") if s is None else (_number(s.drop), f"{s.error:.2%}", _signed(s.us))
        rows.append((layer.name, " x ".join(map(str, layer.shape)), str(scheme) + " (kept)" * layer.kept, *alone))
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else figure(value, 3)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)


def listed(fit: Fit) -> dict[str, Any]:
    """Everything but the model, as JSON holds it."""
    return {
        "verdict": fit.verdict,
        "reason": fit.reason,
        "budget": fit.budget.as_dict(),
        "metric": fit.metric, "max_drop": fit.limit, "resolution": fit.resolution,
        "scheme": None if fit.scheme is None else {name: str(scheme) for name, scheme in fit.scheme.items()},
        "best": None if fit.best is None else fit.best.to_dict(),
        "front": [c.to_dict() for c in fit.front],
        "candidates": [c.to_dict() for c in fit.candidates],
        "sensitivity": [
            {"layer": s.layer, "option": str(s.option), "drop": s.drop, "error": s.error, "bytes": s.bytes, "us": s.us}
            for s in fit.sensitivity
        ],
        "layers": [
            {"name": x.name, "shape": list(x.shape), "options": list(map(str, x.options)), "kept": x.kept}
            for x in fit.layers
        ],
        "complete": fit.complete, "interrupted": fit.interrupted, "seconds": fit.seconds,
        "notes": list(fit.notes), "environment": dict(fit.machine),
    }  # fmt: skip
