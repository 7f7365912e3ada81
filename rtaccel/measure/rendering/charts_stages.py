"""Two charts of a profile as inline SVG: a bar for each stage, and the stages under the machine's roofline."""

from __future__ import annotations

import math
from html import escape

from rtaccel.measure.machine.roofline import Roofline, points
from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.svg import (
    CHARACTER,
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
)
from rtaccel.measure.stages import ModuleTime, StageProfile, by_module

MAX_ROWS = 40
"""Longer programs show the slowest stages, in their order, and one bar for the rest."""

MAX_NAMES = 8
"""Dots of the roofline that have their name beside them."""

_ROW, _NAME, _AMOUNT = 26, 330, 150


def stage_bars(profile: StageProfile, width: int = WIDTH) -> str:
    """Time of each module as a bar, in the order they run: its stages together. A thin line goes on to the 99th percentile
    of a module with one stage, where that fits the axis.
    """
    modules = by_module(profile)
    slowest = sorted(modules, key=lambda m: -m.us)[:MAX_ROWS]
    rows = [module for module in modules if any(module is s for s in slowest)]
    rest = [module for module in modules if not any(module is s for s in slowest)]
    if rest:
        us = sum(module.us for module in rest)
        rows.append(ModuleTime(f"{len(rest)} further modules", us, us, (), sum(module.stages for module in rest)))
    longest = max((module.us for module in rows), default=0.0) or 1.0
    beside, amount = (_NAME, _AMOUNT) if width == WIDTH else (150, 112)
    room = width - beside - amount
    parts = []
    for i, module in enumerate(rows):
        y, length = _ROW * i + 6, room * module.us / longest
        whisker = min(room * module.p99_us / longest, room * 1.0) if module.p99_us else 0.0
        tail = f", p99 {duration(module.p99_us)}" if module.p99_us else f", {module.stages} stages"
        kernels = escape(", ".join(module.kernels))
        parts.append(f"<g><title>{escape(module.name)}: {duration(module.us)}{tail}, {kernels}</title>")
        parts.append(svg_text(beside - 12, y + 14, clipped(module.name, beside - 14, end=True), "name", "end"))
        parts.append(
            f'<path class="bars" fill="{color(0)}" d="M{beside} {y:.1f}h{max(length, 1):.1f}v16h-{max(length, 1):.1f}Z"/>'
        )
        if whisker > length:
            parts.append(svg_line(beside + length, y + 8, beside + whisker, y + 8, "whisker"))
        share = f"{100 * module.us / profile.sum_us:.1f} %" if profile.sum_us else ""
        at = beside + max(length, whisker) + 8
        parts.append(svg_text(at, y + 13, f"{figure(module.us, 3)} µs · {share}", "tick", "start") + "</g>")
    return svg_image(_ROW * len(rows) + 12, "Time per module, one bar each", parts, width)


def roofline_chart(roof: Roofline, profile: StageProfile, width: int = WIDTH) -> str:
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
    x = LogAxis(min([*xs, 0.25]) / 1.5, max([*xs, *knees]) * 3, left, width - right)
    y = LogAxis(min([*ys, *(x.low * b.gb_s for b in slopes)]) / 1.5, highest * 2.2, bottom, top)
    parts = [svg_line(left, y(tick), width - right, y(tick), "grid") for tick in y.ticks()]
    parts += [svg_text(left - 8, y(tick) + 4, figure(tick), "tick", "end") for tick in y.ticks()]
    parts += [svg_line(x(tick), top, x(tick), bottom, "grid") for tick in legible(x)]
    parts += [svg_text(x(tick), bottom + 18, figure(tick)) for tick in legible(x)]
    for slope, knee in zip(slopes, knees):
        parts.append(svg_line(x(x.low), y(max(x.low * slope.gb_s, y.low)), x(knee), y(highest), "roof"))
    # Words above their line; those of a line close below another one under it, and so on downwards.
    words = apart([y(level.macs_ns) - 6 if i == 0 else y(level.macs_ns) + 14 for i, level in enumerate(levels)], 16)
    for level, at in zip(levels, words):
        parts.append(
            svg_line(x(max(level.macs_ns / slopes[0].gb_s, x.low)), y(level.macs_ns), x.end, y(level.macs_ns), "roof")
        )
        parts.append(svg_text(x.end, at, f"{level.name}: {figure(level.macs_ns, 3)} MAC/ns", "name", "end"))
    for i, (slope, knee) in enumerate(zip(slopes, knees)):
        near = i > 0 and slopes[i - 1].gb_s < 1.6 * slope.gb_s
        share = 0.62 if near and i % 2 else 0.35
        text = f"{slope.name}: {figure(slope.gb_s, 3)} GB/s"
        parts.append(_slope_label(text, slope.gb_s, knee, x, y, share))
    for name, across, up in dots:
        parts.append(
            f'<circle class="dot" cx="{x(across):.1f}" cy="{y(up):.1f}" r="5"><title>{escape(name)}: {figure(across, 3)} MAC/B, '
            f"{figure(up, 3)} MAC/ns</title></circle>"
        )
    parts += _dot_names(profile, dots, x, y) if width == WIDTH else []  # a narrow page has no room for names
    parts.append(svg_text((left + width - right) / 2, height - 8, "multiply-adds per byte that must be moved", "axis"))
    parts.append(svg_text(left, top - 4, "multiply-adds per ns", "axis", "start"))
    return svg_image(height, "Roofline: speed of each stage against its multiply-adds per byte", parts, width)


def _slope_label(text: str, gb_s: float, knee: float, x: LogAxis, y: LogAxis, share: float) -> str:
    """Along its line, `share` of the way up to the bend: a third, where dots are few, or past its neighbor's words."""
    low = max(x.low, y.low / gb_s)
    place = low * (knee / low) ** share
    across, up = x(place), y(place * gb_s)
    angle = math.degrees(math.atan2(y(knee * gb_s) - up, x(knee) - across))
    turned = (
        f'<text class="name" text-anchor="middle" transform="translate({across:.1f} {up - 7:.1f}) rotate({angle:.1f})">'
    )
    return f"{turned}{escape(text)}</text>"


def _dot_names(profile: StageProfile, dots: list[tuple[str, float, float]], x: LogAxis, y: LogAxis) -> list[str]:
    """Of the slowest stages; one that would cover another name is left to the dot's own text."""
    us = {stage.name: stage.us for stage in profile.stages}
    taken = [(x(across) - 5, x(across) + 5, y(up) - 8, y(up) + 8) for _, across, up in dots]
    parts = []
    for name, across, up in sorted(dots, key=lambda dot: -us[dot[0]])[:MAX_NAMES]:
        text = clipped(name, 190, end=True)
        at, level, long = x(across) + 9, y(up) + 15, CHARACTER * len(text)
        at = min(at, x.end - long)
        if all(at + long < a or at > b or level < top or level - 12 > low for a, b, top, low in taken):
            parts.append(svg_text(at, level, text, "tick", "start"))
            taken.append((at, at + long, level - 12, level))
    return parts
