"""Curves and dots over linear or log axes as inline SVG, for pages about series rather than latencies."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.svg import CHARACTER, WIDTH, color, svg_image, svg_line, svg_text

F64 = NDArray[np.float64]

LEFT, RIGHT, BOTTOM = 64, 18, 40
"""Of a drawing, in pixels: labels of y, the end of the last label of x, labels and title of x."""

LEGEND = 26

_TICKS = 5


@dataclass(frozen=True, eq=False)
class Curve:
    """y over x, [n] each. A y that is not finite breaks the line. dots: points in place of a line. shade: which color."""

    name: str
    x: Any
    y: Any
    dots: bool = False
    shade: int | None = None


@dataclass(frozen=True, eq=False)
class Chart:
    """What one drawing has. limits: name -> y of a dashed line. spans: from and to of x of areas behind the curves. dates: x is
    seconds since 1970. log: y on a log scale, of which what is not positive is left out. from_zero: y begins at 0."""

    label: str
    curves: Sequence[Curve]
    x_title: str = ""
    y_title: str = ""
    limits: dict[str, float] = field(default_factory=dict)
    spans: Sequence[tuple[float, float]] = ()
    dates: bool = False
    log: bool = False
    from_zero: bool = False
    height: int = 260


def line_chart(chart: Chart, width: int = WIDTH) -> str:
    """The drawing, for a page of this width; with `for_both_widths(partial(line_chart, chart))` for every page."""
    kept = [_finite(curve, chart.log) for curve in chart.curves]
    xs = np.concatenate([x for x, _ in kept]) if kept else np.empty(0)
    ys = np.concatenate([y[np.isfinite(y)] for _, y in kept] + [np.array(list(chart.limits.values()))])
    if not len(xs) or not len(ys):
        return f'<p class="hint">{escape(chart.label)}: nothing to draw.</p>'
    named = [c for c in chart.curves if c.name]
    top = 12 + LEGEND * bool(named) + 18 * bool(chart.y_title)
    bottom = chart.height - BOTTOM
    x_low, x_high = _widened(float(xs.min()), float(xs.max()), 0.0)
    y_low, y_high = _y_range(ys, chart)

    def at_x(x: Any) -> Any:
        return LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def at_y(y: Any) -> Any:
        low, high, value = (np.log10(v) if chart.log else v for v in (y_low, y_high, y))
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [
        f'<rect x="{at_x(a):.1f}" y="{top}" width="{max(at_x(b) - at_x(a), 1.5):.1f}" height="{bottom - top}" '
        'fill="var(--s4)" fill-opacity="0.18"/>'
        for a, b in spans_within(chart.spans, x_low, x_high)
    ]
    for tick in _log_ticks(y_low, y_high) if chart.log else _ticks(y_low, y_high, _TICKS):
        parts += [
            svg_line(LEFT, at_y(tick), width - RIGHT, at_y(tick), "grid"),
            svg_text(LEFT - 8, at_y(tick) + 4, figure(tick, 4), anchor="end"),
        ]
    for place, text in _x_ticks(x_low, x_high, width, chart.dates):
        parts.append(svg_text(at_x(place), bottom + 18, text))
    parts.append(svg_line(LEFT, bottom, width - RIGHT, bottom, "base"))
    for i, (curve, (x, y)) in enumerate(zip(chart.curves, kept)):
        shade = color(i if curve.shade is None else curve.shade)
        parts.append(_dots(at_x(x), at_y(y), shade) if curve.dots else _path(at_x(x), at_y(y), shade))
    for name, limit in chart.limits.items():
        parts += [
            svg_line(LEFT, at_y(limit), width - RIGHT, at_y(limit), "budget"),
            svg_text(width - RIGHT, at_y(limit) - 5, name, "budget-label", "end"),
        ]
    if chart.x_title:
        parts.append(svg_text((LEFT + width - RIGHT) / 2, chart.height - 4, chart.x_title))
    if chart.y_title:
        parts.append(svg_text(4, 14 + LEGEND * bool(named), chart.y_title, anchor="start"))
    parts += _legend(chart.curves, width)
    return svg_image(chart.height, chart.label, parts, width)


def spans_within(spans: Sequence[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    return [(max(a, low), min(b, high)) for a, b in spans if b >= low and a <= high]


def _finite(curve: Curve, log: bool) -> tuple[F64, F64]:
    x, y = np.asarray(curve.x, dtype=np.float64), np.array(curve.y, dtype=np.float64)
    y[~np.isfinite(y)] = np.nan
    if log:
        y[~(y > 0)] = np.nan
    kept = np.isfinite(x)
    return x[kept], y[kept]


def _widened(low: float, high: float, by: float) -> tuple[float, float]:
    span = high - low
    if span <= 0:
        return low - max(abs(low) * 0.05, 0.5), high + max(abs(high) * 0.05, 0.5)
    return low - span * by, high + span * by


def _y_range(ys: F64, chart: Chart) -> tuple[float, float]:
    if chart.log:
        return float(ys.min()) / 1.3, float(ys.max()) * 1.3
    low, high = _widened(float(ys.min()), float(ys.max()), 0.05)
    return (min(0.0, low), high) if chart.from_zero else (low, high)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) <= 2.5 else (1,)
    return [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]


def _x_ticks(low: float, high: float, width: int, dates: bool) -> list[tuple[float, str]]:
    count = 8 if width == WIDTH else 3
    if not dates:
        return [(tick, figure(tick, 5)) for tick in _ticks(low, high, count)]
    places = np.linspace(low, high, count + 2)[1:-1]
    form = "%Y-%m-%d" if high - low > 4 * 86400 else "%m-%d %H:%M" if high - low > 600 else "%H:%M:%S"
    begin = datetime.datetime(1970, 1, 1)
    return [(float(p), (begin + datetime.timedelta(seconds=float(p))).strftime(form)) for p in places]


def _path(x: F64, y: F64, shade: str) -> str:
    """A line; where many points share a pixel, its smallest and largest y stand for them."""
    x, y = _thinned(x, y)
    text, pen_up = [], True
    for a, b in zip(x, y):
        if math.isnan(b):
            pen_up = True
            continue
        text.append(f"{'M' if pen_up else 'L'}{a:.1f} {b:.1f}")
        pen_up = False
    return f'<path class="curve" style="stroke:{shade};stroke-width:1.4" d="{"".join(text)}"/>'


def _thinned(x: F64, y: F64) -> tuple[F64, F64]:
    if len(x) < 4000 or (np.diff(x) < 0).any():
        return x, y
    pixel = np.floor(x).astype(np.int64)
    starts = np.flatnonzero(np.diff(pixel, prepend=pixel[0] - 1))
    rows: list[int] = []
    for a, b in zip(starts, [*starts[1:], len(x)]):
        part = y[a:b]
        if np.isnan(part).all():
            rows.append(int(a))
        else:
            rows += sorted({int(a + np.nanargmin(part)), int(a + np.nanargmax(part))})
    return x[rows], y[rows]


def _dots(x: F64, y: F64, shade: str) -> str:
    return "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.2" style="fill:{shade};fill-opacity:0.85"/>'
        for a, b in zip(x, y)
        if not math.isnan(b)
    )


def _legend(curves: Sequence[Curve], width: int) -> list[str]:
    parts, x = [], float(LEFT)
    for i, curve in enumerate(curves):
        if not curve.name or x > width - RIGHT:
            continue
        shade = color(i if curve.shade is None else curve.shade)
        parts.append(f'<rect x="{x:.1f}" y="4" width="10" height="10" rx="3" style="fill:{shade}"/>')
        parts.append(svg_text(x + 16, 13, curve.name, anchor="start"))
        x += 16 + len(curve.name) * CHARACTER + 18
    return parts
