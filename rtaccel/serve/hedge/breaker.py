"""When not to ask: a circuit breaker for a remote that fails, a budget for requests that are sent again."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from rtaccel.core.errors import FormatError


class Breaker:
    """Stops asking a remote that fails, and tries it again now and then.

    share: of failures in the window at which it opens, above 0 to 1. window: so many requests are looked at.
    cooldown_us: for so long it stays open; then one request is let through. Where that fails it stays open for twice as long,
        up to 32 times; where it succeeds all are let through again.

    The share is high on purpose. Where a fifth is lost by chance, 12 of 20 in a row are lost once in ten thousand requests, 18 of
    20 once in ten billion.

    Raises FormatError for settings out of range.
    """

    def __init__(self, share: float = 0.9, window: int = 20, cooldown_us: float = 100_000) -> None:
        share = number("Breaker", "share", share)
        if share > 1:
            raise FormatError("Breaker", f"share={share!r}", "a share up to 1", "0.9 is 90 %.")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise FormatError("Breaker", f"window={window!r}", "a positive number of requests", "20 is a good start.")
        self._share, self._window = share, window
        self._cooldown_ns = int(number("Breaker", "cooldown_us", cooldown_us) * 1e3)
        self._failed: deque[bool] = deque(maxlen=window)
        self._until_ns: int | None = None
        self._times = 1
        self.opened = 0

    @property
    def open(self) -> bool:
        """Whether requests are held back, but for one now and then."""
        return self._until_ns is not None

    def allows(self, now_ns: int) -> bool:
        """Whether a request may be sent; where it is open, this one is then the trial."""
        return self._until_ns is None or now_ns >= self._until_ns

    def record(self, good: bool, now_ns: int) -> None:
        """What became of a request that was let through."""
        if self._until_ns is not None:
            if good:
                self._until_ns, self._times = None, 1
                self._failed.clear()
            else:
                self._times = min(2 * self._times, 32)
                self._until_ns = now_ns + self._times * self._cooldown_ns
            return
        self._failed.append(not good)
        if len(self._failed) == self._window and sum(self._failed) >= self._share * self._window:
            self._until_ns, self._times = now_ns + self._cooldown_ns, 1
            self.opened += 1


class RetryBudget:
    """Lets a share of the requests be sent again, so that a remote that is slow is not asked even more.

    share: of requests, 0 or above. most: how many may be saved up. Raises FormatError for settings out of range.
    """

    def __init__(self, share: float = 0.1, most: float = 10) -> None:
        self._share = number("RetryBudget", "share", share, zero=True)
        self._most = number("RetryBudget", "most", most)
        self._left = 0.0

    def earn(self) -> None:
        """A request was sent for the first time."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether one may be sent again; then it counts."""
        if self._left < 1.0 - 1e-9:
            return False
        self._left -= 1.0
        return True


def number(op: str, name: str, value: Any, zero: bool = False) -> float:
    """Raises FormatError for what is not a positive finite number (zero: or 0)."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        kind = "a finite number, 0 or above" if zero else "a positive finite number"
        raise FormatError(op, f"{name}={value!r}", kind, f"Change {name}.")
    return float(value)
