"""A line through values in characters of Braille: two by four dots in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a character behind U+2800, [row of dots][left, right]."""


def lines(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of `width` characters; the last 2 width values, NaN where one is missing, the newest on the right."""
    shown = np.asarray(values, dtype=np.float64)[-2 * width :]
    known = shown[np.isfinite(shown)]
    cells = np.zeros((height, width), dtype=np.int64)
    if len(known):
        low, span = float(known.min()), float(known.max() - known.min()) or 1.0
        top = 4 * height - 1
        previous = None
        for i, value in enumerate(shown):
            if not np.isfinite(value):
                previous = None
                continue
            level = top - round((value - low) / span * top)
            first, last = sorted((level, level if previous is None else previous))
            column = i + 2 * width - len(shown)
            for dot in range(first, last + 1):
                cells[dot // 4, column // 2] |= DOTS[dot % 4][column % 2]
            previous = level
    return ["".join(chr(0x2800 + int(bits)) for bits in row) for row in cells]
