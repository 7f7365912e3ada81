"""A fit as one self-contained page: the verdict, the front in a drawing, the layers, and every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from rtaccel.measure.machine.environment import describe
from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.style import style_sheet
from rtaccel.measure.rendering.svg import (
    NARROW,
    LogAxis,
    clipped,
    duration,
    for_both_widths,
    legible,
    svg_image,
    svg_line,
    svg_text,
)
from rtaccel.search.front import Candidate
from rtaccel.search.rendering import row, shown

if TYPE_CHECKING:
    from rtaccel.search.fit import Fit

HEIGHT = 380
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 24, 48

_RULES = """
.kept { fill: var(--s1); stroke: var(--card); stroke-width: 1; } .lost { fill: none; stroke: var(--s8); stroke-width: 1.5; }
.chosen { fill: none; stroke: var(--good); stroke-width: 3; } .step { fill: none; stroke: var(--s1); stroke-width: 1.5; }
td.worse { position: relative; } td.worse i { position: absolute; left: 0; bottom: 0; height: 3px; background: var(--s2); }
td.taken { font-weight: 650; background: var(--good-bg); }
"""


def page(fit: Fit) -> str:
    """The page as text. Nothing in it refers to another file or address; every text is escaped."""
    title = "Fit into a budget"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{escape(str(fit.budget))}; metric {figure(fit.metric + 0.0, 5)} in float32, a drop of '
        f"{figure(fit.limit, 3)} permitted. {len(fit.candidates)} plans were judged in {fit.seconds:.1f} s.</p>",
        f'<div class="banner {fit.verdict}"><strong>{fit.verdict}</strong><span>{escape(fit.reason)}</span></div>',
        '<section><h2>The front</h2><p class="hint">Each dot is a plan: how long a call takes, and how much the metric drops. '
        "Filled dots keep the drop that is permitted, with four standard errors to spare. The line joins plans that no other "
        f"beats. The ring is the plan chosen.</p>{for_both_widths(partial(_drawing, fit))}</section>",
        _layers(fit),
        _candidates(fit),
        _notes(fit),
        _machine(fit),
        "<footer>Times are those of calls bound to their tensors, timed in turn; predicted ones are sums of stages.</footer>",
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title}</title><style>{style_sheet()}{_RULES}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _drawing(fit: Fit, width: int) -> str:
    plans = [c for c in fit.candidates if c.drop is not None and 0 < c.time_us < float("inf")]
    if not plans:
        return ""
    floor = _floor(fit, plans)
    times = [c.time_us for c in plans]
    drops = [max(c.drop or 0.0, floor) for c in plans if (c.drop or 0.0) < float("inf")]
    limit = max(fit.limit, floor)
    x = LogAxis(min(times) / 1.15, max(times) * 1.15, LEFT, width - RIGHT)
    y = LogAxis(floor / 1.3, max([*drops, limit]) * 1.6, HEIGHT - BOTTOM, TOP)
    parts = [svg_line(x(t), TOP, x(t), HEIGHT - BOTTOM, "grid") + svg_text(x(t), HEIGHT - BOTTOM + 18, duration(t))
             for t in legible(x)]  # fmt: skip
    for tick in y.ticks():
        if tick >= floor:
            label = figure(tick, 2) if tick > floor * 1.01 else f"≤ {figure(floor, 2)}"
            parts.append(svg_line(LEFT, y(tick), width - RIGHT, y(tick), "grid"))
            parts.append(svg_text(LEFT - 8, y(tick) + 4, label, anchor="end"))
    parts.append(svg_text((LEFT + width - RIGHT) / 2, HEIGHT - 8, "time of a call"))
    parts.append(svg_text(LEFT - 8, TOP - 8, "drop", anchor="end"))
    parts.append(svg_line(LEFT, y(limit), width - RIGHT, y(limit), "budget"))
    parts.append(svg_text(width - RIGHT, y(limit) - 6, f"permitted {figure(fit.limit, 3)}", "budget-label", "end"))
    wanted = fit.budget.as_dict()
    for key in ("p50_us", "p99_us", "p999_us"):
        if key in wanted and x.low < wanted[key] < x.high:
            parts.append(svg_line(x(wanted[key]), TOP, x(wanted[key]), HEIGHT - BOTTOM, "budget"))
            parts.append(svg_text(x(wanted[key]) + 5, TOP + 10, key.removesuffix("_us"), "budget-label", "start"))
    parts.append(_steps(fit.front, x, y, floor))
    for c in plans:
        place = f'cx="{x(c.time_us):.1f}" cy="{y(_at(c, floor, y)):.1f}"'
        css = "kept" if c.keeps and c.fits else "lost"
        drop = f"{figure(c.drop or 0.0, 3)} lower" if (c.drop or 0.0) < float("inf") else "no number"
        parts.append(f'<circle class="{css}" {place} r="5"><title>{escape(c.name)}: {figure(c.time_us, 3)} us, {drop}'
                     "</title></circle>")  # fmt: skip
        if c is fit.best:
            parts.append(f'<circle class="chosen" {place} r="10"/>')
    parts += _labels(fit, plans, x, y, floor, width)
    return svg_image(HEIGHT, "Plans by the time of a call and the drop of the metric", parts, width)


def _floor(fit: Fit, plans: Sequence[Candidate]) -> float:
    """The least drop that is drawn: smaller ones, and gains, lie on it."""
    positive = [c.drop for c in plans if c.drop is not None and c.drop > max(fit.resolution, 0.0)]
    low = min([fit.limit / 10 or 1e-9, *positive], default=1e-9)
    return max(low, max([fit.limit, *(d for d in positive if d < float("inf"))]) * 1e-4, 1e-12)


def _at(c: Candidate, floor: float, y: LogAxis) -> float:
    return min(max(c.drop or 0.0, floor), y.high)


def _steps(front: Sequence[Candidate], x: LogAxis, y: LogAxis, floor: float) -> str:
    points = [f"{x(c.time_us):.1f},{y(_at(c, floor, y)):.1f}" for c in front if 0 < c.time_us < float("inf")]
    return f'<polyline class="step" points="{" ".join(points)}"/>' if len(points) > 1 else ""


def _labels(fit: Fit, plans: Sequence[Candidate], x: LogAxis, y: LogAxis, floor: float, width: int) -> list[str]:
    """Names of the best plan, of float32 and of what was measured, where there is room."""
    placed: list[tuple[float, float]] = []
    parts = []
    named = [c for c in plans if c is fit.best or c.reference or c.name.startswith("all ")]
    for c in sorted(named, key=lambda c: (c is not fit.best, c.time_us)):
        left, top = x(c.time_us), y(_at(c, floor, y))
        if any(abs(left - a) < 150 and abs(top - b) < 18 for a, b in placed):
            continue
        placed.append((left, top))
        room = width - RIGHT - left - 14
        side = "start" if room > 140 or (width == NARROW and room > 90) else "end"
        text = clipped(c.name, room if side == "start" else left - LEFT - 14)
        parts.append(svg_text(left + (14 if side == "start" else -14), top + 4, text, "name", side))
    return parts


def _layers(fit: Fit) -> str:
    options = list(dict.fromkeys(o for layer in fit.layers for o in layer.options))
    found = {(s.layer, s.option): s for s in fit.sensitivity}
    worst = max([s.drop or 0.0 for s in found.values() if (s.drop or 0.0) < float("inf")], default=0.0) or 1.0
    head = "".join(f"<th>{escape(str(o))}</th>" for o in options)
    rows = []
    for layer in fit.layers:
        cells = []
        for option in options:
            s = found.get((layer.name, option))
            taken = fit.best is not None and fit.best.scheme[layer.name] == option
            css = " ".join(["worse", *(["taken"] if taken else [])])
            if option not in layer.options:
                cells.append('<td class="soft">-</td>')
                continue
            if s is None:
                cells.append(f'<td class="{css}">{"kept" if layer.kept else "reference"}</td>')
                continue
            drop = "" if s.drop is None else figure(s.drop, 2)
            us = "" if s.us is None else f"{s.us:+.2f} us"
            share = min(100.0, max(0.0, 100 * (s.drop or 0.0) / worst))
            cells.append(
                f'<td class="{css}">{drop}<span class="range">{us}, {s.error:.1%} off</span>'
                f'<i style="width:{share:.0f}%"></i></td>'
            )
        shape = " x ".join(map(str, layer.shape))
        rows.append(f'<tr><td><b>{escape(layer.name)}</b><span class="range">{shape}</span></td>{"".join(cells)}</tr>')
    return (
        '<section><h2>Each layer alone</h2><p class="hint">The drop of the metric when this layer alone is computed so; under '
        "it what the stages gain in time, and how far the model's outputs are off on calibration data. Bars compare drops. Green "
        f'cells are the plan.</p><div class="scroll"><table><thead><tr><th>layer</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _candidates(fit: Fit) -> str:
    labels = ("plan", "us", "predicted", "drop", "predicted", "bytes", "verdict")
    head = "".join(f"<th>{label}</th>" for label in labels)
    rows = "".join(
        "<tr>"
        + "".join(f"<td{' class=wrap' * (i == 0)}>{escape(cell)}</td>" for i, cell in enumerate(row(c)))
        + "</tr>"
        for c in shown(fit)
    )
    return (
        f'<section><h2>Plans</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _notes(fit: Fit) -> str:
    if not fit.notes:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in fit.notes)}</ul></section>"


def _machine(fit: Fit) -> str:
    pairs = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in describe(fit.machine))
    return f"<section><h2>Machine and software</h2><dl>{pairs}</dl></section>"
