"""Mergeable histograms of latencies: one per process or machine, added up, without keeping every sample.

They are those of HdrHistogram (extra `hdr`), in nanoseconds. A value is recorded with as many significant digits as asked
for, so a percentile read from one is up to 0.1 % above the sample (three digits). Recording takes longer than a small
model, so it happens after a measurement and never between two calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure.numbers import is_finite, is_whole, shown

if TYPE_CHECKING:
    from rtaccel.measure.result import Latency

LARGEST_NS = 3_600 * 10**9
"""An hour; longer calls are refused."""


class Histogram:
    """Counts of latencies by size.

    >>> import rtaccel as rt
    >>> from rtaccel.measure.histogram import Histogram
    >>> parts = [Histogram.of(rt.measure(len, ([],), samples=500)) for _ in range(3)]
    >>> both = Histogram.merged(parts)
    >>> both.n, both.percentile_us(50) <= both.percentile_us(99)
    (1500, True)
    """

    def __init__(self, digits: int = 3) -> None:
        """digits: significant ones, 1 to 5. Raises BackendUnavailable without the package hdrhistogram."""
        if not is_whole(digits, 1, 5):
            raise FormatError("histogram", f"digits={shown(digits)}", "1 to 5 significant digits", "Three are usual.")
        self.digits = digits
        self._counts = _library().HdrHistogram(1, LARGEST_NS, digits)

    @classmethod
    def of(cls, latency: Latency, digits: int = 3) -> Histogram:
        """Of every sample of a measurement. Raises FormatError for what is none."""
        samples = getattr(latency, "samples_us", None)
        if samples is None:
            raise FormatError("histogram", shown(latency), "a measurement", "Pass what rt.measure gave.")
        found = cls(digits)
        found.record_ns(np.rint(np.asarray(samples, dtype=np.float64) * 1e3))
        return found

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """The sum of some. Raises FormatError for none, or for different digits."""
        parts = list(parts)
        if not all(isinstance(part, Histogram) for part in parts):
            raise FormatError("histogram", shown(parts), "histograms", "Decode texts with Histogram.decode first.")
        if not parts or len({part.digits for part in parts}) != 1:
            got = f"{len(parts)} histograms with digits {sorted({part.digits for part in parts})}"
            raise FormatError("histogram", got, "one or more with the same digits", "Record them alike.")
        found = cls(parts[0].digits)
        for part in parts:
            found._counts.add(part._counts)
        return found

    def record_ns(self, samples_ns: Any) -> None:
        """Adds samples, array [n] of whole nanoseconds, 0 or more; 0 counts as 1.

        Raises FormatError for negative ones and for more than an hour; then none is added.
        """
        try:
            samples = np.asarray(samples_ns, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as problem:
            raise FormatError("histogram", shown(samples_ns), "numbers of nanoseconds", "Pass an array.") from problem
        values, counts = np.unique(samples, return_counts=True)
        if len(values) and not (values[0] >= 0 and values[-1] <= LARGEST_NS):
            raise FormatError("histogram", f"{values[0]:g} .. {values[-1]:g} ns", "0 ns to an hour", "Check the clock.")
        for value, count in zip(values, counts):
            self._counts.record_value(max(1, int(value)), int(count))

    @property
    def n(self) -> int:
        """How many samples."""
        return int(self._counts.get_total_count())

    @property
    def max_us(self) -> float:
        """The longest; 0 for none."""
        return float(self._counts.get_max_value()) / 1e3

    def percentile_us(self, percent: float) -> float:
        """The latency that `percent` of the samples do not exceed. Raises FormatError outside of 0 to 100, or for none."""
        if not is_finite(percent) or not 0 <= percent <= 100 or self.n == 0:
            raise FormatError(
                "histogram", f"{shown(percent)} % of {self.n} samples", "0 to 100 % of some", "Record first."
            )
        return float(self._counts.get_value_at_percentile(percent)) / 1e3

    def encode(self) -> str:
        """Text for a log or a file, in HdrHistogram's own format (V2, compressed, base64), which its tools read."""
        return self._counts.encode().decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """From `encode`. Raises FormatError for anything else."""
        try:
            counts = _library().HdrHistogram.decode(text.encode("ascii"))
        except Exception as problem:  # what the library raises for damage has many types
            got = f"text that is no histogram ({type(problem).__name__})"
            raise FormatError("histogram", got, "what encode() returned", "Check the file.") from problem
        found = cls(counts.significant_figures)
        found._counts.add(counts)
        return found


def _library() -> Any:
    try:
        from hdrh import histogram
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            "histogram", "no module hdrh", "the package hdrhistogram", "pip install 'rtaccel[hdr]'"
        ) from missing
    return histogram
