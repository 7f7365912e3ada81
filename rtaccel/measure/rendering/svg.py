"""What the charts are drawn with: a log axis, colors, numbers for people, and the few SVG elements they need.

Colors are CSS variables of the page (`report_style`), so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

from rtaccel.measure.numbers import figure

__all__ = [
    "CHARACTER",
    "NARROW",
    "SERIES",
    "WIDTH",
    "LogAxis",
    "apart",
    "clipped",
    "color",
    "duration",
    "for_both_widths",
    "legible",
    "svg_image",
    "svg_line",
    "svg_text",
]

SERIES = 8
"""Distinct colors; further results repeat them with dashed lines."""

WIDTH, NARROW = 1040, 470
"""Of a drawing for a page, and for a page as narrow as a phone: text keeps its size, and there is less of it."""

CHARACTER = 8.3
"""Pixels of a character of a name, generously: fonts differ."""


@dataclass(frozen=True)
class LogAxis:
    """Maps low..high on a log scale to start..end in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade where it spans at most three, else powers of ten."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if math.log10(self.high / self.low) <= 3 else (1,)
        found = [step * 10.0**d for d in decades for step in steps]
        return [tick for tick in found if self.low <= tick * (1 + 1e-9) and tick <= self.high * (1 + 1e-9)]


def duration(us: float) -> str:
    """A latency for people: three digits and the unit that suits it."""
    for limit, factor, unit in ((1.0, 1e3, "ns"), (1e3, 1.0, "µs"), (1e6, 1e-3, "ms")):
        if us < limit * 0.9995:
            return f"{us * factor:.3g} {unit}"
    return f"{figure(us * 1e-6, 3)} s"


def color(index: int) -> str:
    return f"var(--s{index % SERIES + 1})"


def svg_text(x: float, y: float, text: str, css: str = "tick", anchor: str = "middle") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg_line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg_image(height: float, label: str, parts: Iterable[str], width: int = WIDTH) -> str:
    label = escape(label, quote=True)
    kind = "wide" if width == WIDTH else "narrow"
    opening = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{label}">'
    return f'<div class="{kind}">{opening}{"".join(parts)}</svg></div>'


def for_both_widths(draw: Callable[[int], str]) -> str:
    """A drawing for wide and for narrow pages; the style sheet shows the one that fits."""
    return draw(WIDTH) + draw(NARROW)


def apart(places: Iterable[float], gap: float) -> list[float]:
    """Places in ascending order moved up the scale, as little as keeps `gap` between neighbors."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    return found


def legible(axis: LogAxis) -> list[float]:
    """Ticks whose labels do not touch."""
    found: list[float] = []
    for tick in axis.ticks():
        if not found or axis(tick) - axis(found[-1]) > 56:
            found.append(tick)
    return found


def clipped(text: str, pixels: float, end: bool = False) -> str:
    """As much of a text as fits; `end` keeps its end, which tells stages apart."""
    most = max(4, int(pixels / CHARACTER))
    if len(text) <= most:
        return text
    return "…" + text[1 - most :] if end else text[: most - 1] + "…"
