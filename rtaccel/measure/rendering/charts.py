"""Two charts of latency as inline SVG: histograms on a log axis, and latency against percentile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from rtaccel.measure.rendering.svg import (
    CHARACTER,
    NARROW,
    SERIES,
    WIDTH,
    LogAxis,
    apart,
    clipped,
    color,
    duration,
    legible,
    svg_image,
    svg_line,
    svg_text,
)  # fmt: skip
from rtaccel.measure.result import Latency

_LEFT, _RIGHT = 16, 24
_BINS = 320
MAX_DRAWN = 24
"""Results that are drawn; more would be told apart by nobody. Tables show all."""

_PERCENTILES = {"50": 0.5, "90": 0.1, "99": 0.01, "99.9": 0.001, "99.99": 0.0001, "99.999": 0.00001}
"""Label -> share of calls above it."""

_KEY_LABELS = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9"}
_KEY_TAILS = {"p50_us": 0.5, "p99_us": 0.01, "p999_us": 0.001}


def _domain(results: Sequence[Latency], limits: Iterable[float]) -> tuple[float, float]:
    floor = 1e-3  # a clock may read 0; a log axis starts at 1 ns
    low = max(min(result.min_us for result in results), floor)
    high = max([result.max_us for result in results] + [*limits, 2 * low])
    return low / 1.15, high * 1.15


def _budgets(results: Sequence[Latency]) -> list[tuple[str, float]]:
    """Each latency limit once, however many results share it."""
    found = {(k, v) for r in results if r.budget for k, v in r.budget.as_dict().items() if k in _KEY_LABELS}
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def histograms(results: Sequence[Latency], width: int = WIDTH) -> str:
    """One row per result on a shared log axis; heights are log(1 + calls), each row scaled to its tallest bar: one slow
    call among a million is seen.

    Below the bars, ticks at p50, p99, p99.9 and the maximum, so that the few slow calls are seen. Dashed: the limits.
    """
    if not results:
        return ""
    row, bars, top = 118, 52, 10
    axis = LogAxis(*_domain(results, (limit for _, limit in _budgets(results))), _LEFT, width - _RIGHT)
    bottom = top + row * len(results)
    ticks = legible(axis)
    parts = [svg_line(axis(tick), top, axis(tick), bottom, "grid") for tick in ticks]
    parts += [svg_text(axis(tick), bottom + 18, duration(tick)) for tick in ticks]
    for i, result in enumerate(results):
        base = top + row * i + 44 + bars
        parts.append(_row(result, i, axis, base, bars))
    parts.append(svg_text((_LEFT + width) / 2, bottom + 40, "latency of one call (log scale)", "axis"))
    return svg_image(bottom + 50, "Histograms of latency, one row per result", parts, width)


def _row(result: Latency, index: int, axis: LogAxis, base: float, height: float) -> str:
    edges = np.geomspace(axis.low, axis.high, _BINS + 1)
    counts, _ = np.histogram(np.clip(result.samples_us, axis.low, axis.high), bins=edges)
    tallest = math.log1p(max(int(counts.max()), 1))
    path, level = [f"M{axis.start:.1f} {base:.1f}"], 0
    for left, count in zip(edges, [*counts, 0]):
        if count != level:  # bars of one height are one line
            y = base - height * math.log1p(count) / tallest
            path.append(f"H{axis(left):.1f}V{y:.1f}")
            level = count
    path.append(f"H{axis.end:.1f}Z")
    parts = [
        f"<g><title>{escape(result.name)}: p50 {duration(result.p50_us)}, p99 {duration(result.p99_us)}, "
        f"p99.9 {duration(result.p999_us)}, max {duration(result.max_us)}</title>",
        f'<path d="{"".join(path)}" fill="{color(index)}" class="bars"/>',
        svg_line(axis.start, base, axis.end, base, "base"),
    ]
    marks = [("p50", result.p50_us), ("p99", result.p99_us), ("p99.9", result.p999_us), ("max", result.max_us)]
    taken = -math.inf
    for label, value in marks:
        x = axis(max(value, axis.low))
        parts.append(f'<line class="mark" style="stroke:{color(index)}" x1="{x:.1f}" y1="{base + 1:.1f}" '
                     f'x2="{x:.1f}" y2="{base + 6:.1f}"/>')  # fmt: skip
        if x - taken > 34:  # a label that would touch the one before is left to the table
            parts.append(svg_text(x, base + 17, label, "mark-label"))
            taken = x
    parts += _limits(result, axis, base, height)
    parts.append(svg_text(axis.start, base - height - 24, clipped(result.name, axis.end - axis.start), "name", "start"))
    return "".join([*parts, "</g>"])


def _limits(result: Latency, axis: LogAxis, base: float, height: float) -> list[str]:
    """Dashed lines, and their words in a line of their own above the bars; words that would touch are one sentence."""
    times = result.budget.as_dict() if result.budget else {}
    found = sorted((limit, key) for key, limit in times.items() if key in _KEY_LABELS)
    parts = [svg_line(axis(limit), base - height - 4, axis(limit), base, "budget") for limit, _ in found]
    groups: list[tuple[float, str]] = []
    for limit, key in found:
        words, x = f"{_KEY_LABELS[key]} ≤ {duration(limit)}", axis(limit)
        if groups and x < groups[-1][0] + CHARACTER * (len(groups[-1][1]) + 1):
            groups[-1] = (groups[-1][0], f"{groups[-1][1]} · {words}")
        else:
            groups.append((x, words))
    for x, words in groups:
        start = min(x - 2, axis.end - CHARACTER * 0.9 * len(words))
        parts.append(svg_text(max(start, axis.start), base - height - 8, words, "budget-label", "start"))
    return parts


def tails(results: Sequence[Latency], width: int = WIDTH) -> str:
    """Latency (log) against percentile, spaced by the share of calls above it (log), from 50 to the last with 10 calls.

    Triangles: limits of the budgets; a line that passes below one meets it on this sample.
    """
    if not results:
        return ""
    most = max(result.n for result in results)
    shown = {label: tail for label, tail in _PERCENTILES.items() if tail == 0.5 or round(most * tail) >= 10}
    last = min(min(shown.values()), 0.1) / 1.6
    below = 20 * len(results) + 8 if width == NARROW else 0  # no room beside the lines: names stand under the chart
    height, top, left = 420, 16, 74
    names = [clipped(result.name, width - 60 if below else 250) for result in results]
    right = 24 if below else 40 + CHARACTER * max(6, *map(len, names))
    bottom = height - 48
    limits = [(key, limit) for key, limit in _budgets(results) if _KEY_TAILS[key] >= last]
    curves = [_curve(result, last) for result in results]
    values = [v for _, ys in curves for v in ys] + [limit for _, limit in limits]
    low, high = max(min(values), 1e-3), max(values)
    y = LogAxis(low / 1.2, max(high, 2 * low) * 1.2, bottom, top)
    x = LogAxis(0.5, last, left, width - right)  # falls from left to right
    parts = [svg_line(left, y(tick), width - right, y(tick), "grid") for tick in y.ticks()]
    parts += [svg_text(left - 8, y(tick) + 4, duration(tick), "tick", "end") for tick in y.ticks()]
    for label, tail in shown.items():
        parts.append(svg_line(x(tail), top, x(tail), bottom, "grid"))
        parts.append(svg_text(x(tail), bottom + 18, label + " %"))
    parts.append(svg_text((left + width - right) / 2, height - 8, "percentile of calls", "axis"))
    ends = []
    for i, (result, (tails_, ys)) in enumerate(zip(results, curves)):
        points = " ".join(f"{x(t):.1f},{y(max(v, y.low)):.1f}" for t, v in zip(tails_, ys))
        dash = ' stroke-dasharray="6 4"' if i >= SERIES else ""
        parts.append(
            f'<polyline class="curve" points="{points}" style="stroke:{color(i)}"{dash}>'
            f"<title>{escape(result.name)}</title></polyline>"
        )
        ends.append((y(max(ys[-1], y.low)), i))
    parts += _triangles(limits, x, y, left)
    places = [(height + 14 + 20 * i, i) for i in range(len(results))] if below else _spread(ends, top + 10, bottom)
    across = 16 if below else width - right + 14
    parts += [
        f'<circle cx="{across:.1f}" cy="{at - 4:.1f}" r="4" fill="{color(i)}"/>'
        + svg_text(across + 10, at, names[i], "name", "start")
        for at, i in places
    ]
    return svg_image(height + below, "Latency against percentile", parts, width)


def _triangles(limits: Sequence[tuple[str, float]], x: LogAxis, y: LogAxis, left: float) -> list[str]:
    """A dashed line and a triangle for each limit; words to the left of it, moved up where they would touch others."""
    parts = []
    for key in _KEY_TAILS:
        levels = sorted((limit for k, limit in limits if k == key), key=lambda limit: -y(limit))
        at = x(_KEY_TAILS[key])
        heights = [-up for up in apart([-(y(limit) - 5) for limit in levels], 15)]
        for limit, words in zip(levels, heights):
            level = y(limit)
            parts.append(svg_line(left, level, at, level, "budget"))
            parts.append(f'<path class="limit" d="M{at - 6:.1f} {level - 9:.1f}h12L{at:.1f} {level:.1f}Z"/>')
            near_start = at - left < 90
            place, anchor = (at + 9, "start") if near_start else (at - 9, "end")
            text = f"{_KEY_LABELS[key]} ≤ {duration(limit)}"
            wide = CHARACTER * 0.9 * len(text)
            start = place if near_start else place - wide
            parts.append(
                f'<path class="behind" d="M{start - 2:.1f} {words - 11:.1f}h{wide + 4:.1f}v14h-{wide + 4:.1f}Z"/>'
            )
            parts.append(svg_text(place, words, text, "budget-label", anchor))
    return parts


def _curve(result: Latency, last: float) -> tuple[list[float], list[float]]:
    """Points (share above, latency) evenly spaced on the log axis; as far as one call in n reaches."""
    ordered = np.sort(result.samples_us)
    n = len(ordered)
    end = max(last, 1 / n)
    shares = np.geomspace(0.5, min(end, 0.5), 160)
    ranks = np.clip(n - 1 - np.floor(n * shares + 1e-9).astype(int), 0, n - 1)
    return [float(s) for s in shares], [float(v) for v in ordered[ranks]]


def _spread(ends: list[tuple[float, int]], top: float, bottom: float, gap: float = 18.0) -> list[tuple[float, int]]:
    """Label positions at least `gap` apart, as close to their lines as that allows."""
    placed: list[tuple[float, int]] = []
    for wish, i in sorted(ends):
        floor = placed[-1][0] + gap if placed else top
        placed.append((max(wish + 4, floor), i))
    overflow = max(0.0, placed[-1][0] - bottom) if placed else 0.0
    return [(at - overflow, i) for at, i in placed]
