"""What the charts are drawn with: a log axis, colours, numbers for people, and the few SVG elements they need.

Colours are CSS variables of the page (`report_style`), so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

__all__ = ["SERIES", "WIDTH", "LogAxis", "colour", "duration", "svg_image", "svg_line", "svg_text"]

SERIES = 8
"""Distinct colours; further results repeat them with dashed lines."""

WIDTH = 1040


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
    return f"{us * 1e-6:.3g} s"


def colour(index: int) -> str:
    return f"var(--s{index % SERIES + 1})"


def svg_text(x: float, y: float, text: str, css: str = "tick", anchor: str = "middle") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg_line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg_image(height: float, label: str, parts: Iterable[str]) -> str:
    label = escape(label, quote=True)
    opening = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">'
    return f'<div class="scroll">{opening}{"".join(parts)}</svg></div>'
