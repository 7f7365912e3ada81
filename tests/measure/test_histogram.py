"""Histograms that add up, and what they refuse."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure.histogram import Histogram
from rtaccel.measure.result import Latency


def test_without_the_package_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh", None)
    with pytest.raises(BackendUnavailable, match=r"hdrhistogram.*rtaccel\[hdr\]"):
        Histogram()


def test_parts_add_up_to_the_whole() -> None:
    pytest.importorskip("hdrh")
    samples = np.random.default_rng(0).lognormal(9, 1.5, 9_000).round()
    parts = [Histogram.of(Latency.from_samples(part, name="x", timer_ns=0.0)) for part in np.split(samples, 3)]
    merged = Histogram.merged(Histogram.decode(part.encode()) for part in parts)
    assert merged.n == 9_000
    ordered = np.sort(samples)
    for percent in (50, 90, 99, 99.9, 100):
        exact = ordered[round(percent * 90) - 1] / 1e3
        assert merged.percentile_us(percent) == pytest.approx(exact, rel=1.1e-3)  # three digits
    assert merged.max_us == pytest.approx(ordered[-1] / 1e3, rel=1.1e-3)
    assert parts[0].n == 3_000


def test_refused() -> None:
    pytest.importorskip("hdrh")
    histogram = Histogram()
    for bad in ([-1.0], [1.0, np.nan], [4e12]):
        with pytest.raises(FormatError, match="0 ns to an hour"):
            histogram.record_ns(bad)
    assert histogram.n == 0
    histogram.record_ns([])
    histogram.record_ns([0.0, 5.0])
    assert histogram.n == 2
    for percent in (-1, 101, float("nan")):
        with pytest.raises(FormatError, match="0 to 100"):
            histogram.percentile_us(percent)
    with pytest.raises(FormatError, match="0 samples"):
        Histogram().percentile_us(50)
    for digits in (0, 6, 2.5):
        with pytest.raises(FormatError, match="digits"):
            Histogram(digits)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="digits"):
        Histogram.merged([Histogram(2), Histogram(3)])
    with pytest.raises(FormatError, match="0 histograms"):
        Histogram.merged([])


@pytest.mark.parametrize("cut", [0, 3, 10, -8, -1])
def test_damaged_text_is_a_typed_error(cut: int) -> None:
    pytest.importorskip("hdrh")
    histogram = Histogram()
    histogram.record_ns(np.arange(1, 2_000))
    text = histogram.encode()
    for bad in (text[:cut], "é" + text, text[:20] + "AAAA" + text[24:]):
        with pytest.raises(FormatError, match="no histogram"):
            Histogram.decode(bad)
