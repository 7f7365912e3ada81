"""Which values are numbers, and how one that is none is shown in an error message."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection
from typing import Any

_WIDE_BITS = 128


def is_number(value: Any) -> bool:
    """A float, or an int that a float can hold; True and False are none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value: Any) -> bool:
    """A number that is no NaN, no infinity, and no whole number beyond 1.8e308."""
    return is_number(value) and math.isfinite(value)


def is_whole(value: Any, low: int, high: int | None = None) -> bool:
    """A whole number from `low` to `high`, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)


def shown(value: Any) -> str:
    """`repr` on one short line, whatever the value: Python refuses to print a whole number of more than 4,300 digits."""
    if isinstance(value, int) and value.bit_length() > _WIDE_BITS:
        return f"a whole number of {value.bit_length():,} bits"
    return " ".join(_SHORT.repr(value).split())


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def figure(value: float, digits: int = 4) -> str:
    """A figure for people: so many digits, and whole numbers with separators from a thousand on; never 1.46e+03."""
    text = f"{value:,.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def unit_of(us: Collection[float]) -> tuple[str, float]:
    """One unit for latencies that stand in one column, and how many of it a microsecond is: that of the smallest."""
    least = min((value for value in us if value > 0), default=1.0)
    most = max(us, default=1.0)
    if most < 1:
        return "ns", 1e3
    return ("s", 1e-6) if least >= 1e6 else ("ms", 1e-3) if least >= 1e3 else ("µs", 1.0)
