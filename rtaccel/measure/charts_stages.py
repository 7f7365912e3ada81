"""Two charts of a profile as inline SVG: a bar for each stage, and the stages under the machine's roofline."""

from __future__ import annotations

import math
from html import escape

from rtaccel.measure.roofline import Roofline, points
from rtaccel.measure.stages import StageProfile
from rtaccel.measure.svg import WIDTH, LogAxis, colour, duration, svg_image, svg_line, svg_text

MOST_ROWS = 40
"""Longer programs show the slowest stages, in their order, and one bar for the rest."""

MOST_NAMES = 8
"""Dots of the roofline that have their name beside them."""

_ROW, _NAME, _AMOUNT = 26, 300, 150


def stage_bars(profile: StageProfile) -> str:
    """Medians as bars, in the order they run; a thin line goes on to the 99th percentile where that fits the axis."""
    slowest = sorted(profile.stages, key=lambda s: -s.us)[:MOST_ROWS]
    shown = [stage for stage in profile.stages if any(stage is s for s in slowest)]
    rows = [(stage.name, stage.kernel, stage.us, stage.p99_us) for stage in shown]
    rest = [stage for stage in profile.stages if not any(stage is s for s in slowest)]
    if rest:
        us = sum(stage.us for stage in rest)
        rows.append((f"{len(rest)} further stages", "", us, us))
    longest = max((us for *_, us, _ in rows), default=0.0) or 1.0
    room = WIDTH - _NAME - _AMOUNT
    parts = []
    for i, (name, kernel, us, p99) in enumerate(rows):
        y, length = _ROW * i + 6, room * us / longest
        whisker = min(room * p99 / longest, room * 1.0)
        parts.append(f"<g><title>{escape(name)}: {duration(us)}, p99 {duration(p99)}, {escape(kernel)}</title>")
        parts.append(svg_text(_NAME - 12, y + 14, _clip(name, 40), "name", "end"))
        parts.append(
            f'<path class="bars" fill="{colour(0)}" d="M{_NAME} {y:.1f}h{max(length, 1):.1f}v16h-{max(length, 1):.1f}Z"/>'
        )
        if whisker > length:
            parts.append(svg_line(_NAME + length, y + 8, _NAME + whisker, y + 8, "whisker"))
        share = f"{100 * us / profile.sum_us:.1f} %" if profile.sum_us else ""
        at = _NAME + max(length, whisker) + 8
        parts.append(svg_text(at, y + 13, f"{duration(us)}  ·  {share}", "tick", "start") + "</g>")
    return svg_image(_ROW * len(rows) + 12, "Time per stage, one bar each", parts)


def roofline_chart(roof: Roofline, profile: StageProfile) -> str:
    """Multiply-adds per ns against multiply-adds per byte, both logarithmic; a dot for each stage that has both."""
    dots = points(profile)
    if not dots or not roof.bandwidths or not roof.peaks:
        return ""
    height, top, left, right, bottom = 430, 16, 74, 24, 382
    slopes = sorted(roof.bandwidths, key=lambda b: -b.gb_s)
    levels = sorted(roof.peaks, key=lambda p: -p.macs_ns)
    highest = levels[0].macs_ns
    knees = [highest / b.gb_s for b in slopes]
    xs, ys = [x for _, x, _ in dots], [y for *_, y in dots]
    x = LogAxis(min([*xs, 0.25]) / 1.5, max([*xs, *knees]) * 3, left, WIDTH - right)
    y = LogAxis(min([*ys, *(x.low * b.gb_s for b in slopes)]) / 1.5, highest * 2.2, bottom, top)
    parts = [svg_line(left, y(tick), WIDTH - right, y(tick), "grid") for tick in y.ticks()]
    parts += [svg_text(left - 8, y(tick) + 4, f"{tick:g}", "tick", "end") for tick in y.ticks()]
    parts += [svg_line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks()]
    parts += [svg_text(x(tick), bottom + 18, f"{tick:g}") for tick in x.ticks()]
    for slope, knee in zip(slopes, knees):
        parts.append(svg_line(x(x.low), y(max(x.low * slope.gb_s, y.low)), x(knee), y(highest), "roof"))
    for level in levels:
        parts.append(
            svg_line(x(max(level.macs_ns / slopes[0].gb_s, x.low)), y(level.macs_ns), x.end, y(level.macs_ns), "roof")
        )
        parts.append(svg_text(x.end, y(level.macs_ns) - 6, f"{level.name}: {level.macs_ns:,.3g} MAC/ns", "name", "end"))
    for slope, knee in zip(slopes, knees):
        parts.append(_slope_label(f"{slope.name}: {slope.gb_s:,.3g} GB/s", slope.gb_s, knee, x, y))
    for name, across, up in dots:
        parts.append(
            f'<circle class="dot" cx="{x(across):.1f}" cy="{y(up):.1f}" r="5"><title>{escape(name)}: {across:.3g} MAC/B, '
            f"{up:.3g} MAC/ns</title></circle>"
        )
    parts += _dot_names(profile, dots, x, y)
    parts.append(svg_text((left + WIDTH - right) / 2, height - 8, "multiply-adds per byte that must be moved", "axis"))
    parts.append(svg_text(left, top - 4, "multiply-adds per ns", "axis", "start"))
    return svg_image(height, "Roofline: speed of each stage against its multiply-adds per byte", parts)


def _slope_label(text: str, gb_s: float, knee: float, x: LogAxis, y: LogAxis) -> str:
    """Along its line, a third of the way up to the bend, where dots are few."""
    low = max(x.low, y.low / gb_s)
    third = low * (knee / low) ** 0.35
    across, up = x(third), y(third * gb_s)
    angle = math.degrees(math.atan2(y(knee * gb_s) - up, x(knee) - across))
    turned = (
        f'<text class="name" text-anchor="middle" transform="translate({across:.1f} {up - 7:.1f}) rotate({angle:.1f})">'
    )
    return f"{turned}{escape(text)}</text>"


def _dot_names(profile: StageProfile, dots: list[tuple[str, float, float]], x: LogAxis, y: LogAxis) -> list[str]:
    """Of the slowest stages; one that would cover another name is left to the dot's own text."""
    us = {stage.name: stage.us for stage in profile.stages}
    taken: list[tuple[float, float]] = []
    parts = []
    for name, across, up in sorted(dots, key=lambda dot: -us[dot[0]])[:MOST_NAMES]:
        at, level = x(across) + 9, y(up) + 15
        if all(abs(at - a) > 120 or abs(level - b) > 16 for a, b in taken):
            parts.append(svg_text(at, level, _clip(name, 24), "tick", "start"))
            taken.append((at, level))
    return parts


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]
