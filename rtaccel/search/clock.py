"""The time that a search was given."""

from __future__ import annotations

from time import monotonic


class TimeUp(Exception):
    """No time for the next step: what is known by now has to do."""


class Clock:
    """Counts from when it is made. kept: seconds at the end that are for what comes after the search now going on."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._start = seconds, monotonic()
        self.measuring = min(3.0, 0.2 * seconds)
        self.kept = self.measuring

    def keep(self, share: float = 0.0) -> None:
        """Keeps that part of all the time, beside what is for measuring."""
        self.kept = self.measuring + share * self.seconds

    @property
    def spent(self) -> float:
        return monotonic() - self._start

    @property
    def left(self) -> float:
        """Until the end, with what is kept for measuring."""
        return self.seconds - self.spent

    def until(self) -> float:
        """The end of the search, on `time.monotonic`."""
        return self._start + self.seconds - self.kept

    def check(self, cost: float = 0.0) -> None:
        """Raises TimeUp where a step of so many seconds would take time from the measurements."""
        if self.left - self.kept < cost:
            raise TimeUp
