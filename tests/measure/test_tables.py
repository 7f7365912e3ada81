"""Results in a notebook and as DataFrames."""

from __future__ import annotations

import html
import importlib.util
import math
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable
from rtaccel.measure.interleave import Interleaved
from rtaccel.measure.rendering.tables import Tabled
from rtaccel.measure.result import Latency
from rtaccel.measure.stages import StageProfile, StageTime

STAGES = StageProfile(
    (StageTime("a<b>", "linear", "cpu_avx2", 1234.5, 1300.0, 10, 20), StageTime("c", "x", "k", 2, 3)), 9.0, 25.0, 7
)


def latency(budget: rt.Budget | None = None) -> Latency:
    samples = np.random.default_rng().integers(900, 2_000_000, 1000)
    return Latency.from_samples(samples, name="fast <model>", timer_ns=30.0, budget=budget)


def interleaved() -> Interleaved:
    samples = np.random.default_rng().random((2, 30, 5)) + 1
    return Interleaved({"old": samples[0], "new": samples[1]}, 0.0)


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("make", [latency, interleaved, lambda: interleaved().compare("new", "old"), lambda: STAGES])
def test_a_notebook_shows_a_well_formed_table_without_mark_up_of_names(make: object) -> None:
    found = make()  # type: ignore[operator]
    assert isinstance(found, Tabled)
    text = found._repr_html_()
    rows = Cells(text).rows
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1
    assert "<b>model" not in text
    assert "script" not in text
    assert "e+0" not in text


def test_the_html_of_a_latency_holds_its_figures_limits_and_verdict() -> None:
    found = latency(rt.Budget(p99_us=1e9, size_bytes=10))
    text = html.unescape(found._repr_html_())
    rows = {row[0]: row for row in Cells(found._repr_html_()).rows}
    assert rows["p99"][1] == f"{found.p99_us:,.0f} us"
    assert "PASS" in rows["p99"]
    assert "UNDECIDED" in text
    assert "pass size_bytes=" in text


def test_records_are_flat_and_plain() -> None:
    found = latency(rt.Budget(p99_us=50))
    (row,) = found.records()
    assert row["p50_us"] == found.p50_us
    assert row["limit_p99_us"] == 50
    assert row["p99_low_us"] <= row["p99_us"] <= (row["p99_high_us"] or math.inf)
    for made in (found, interleaved(), STAGES, interleaved().compare("new", "old")):
        for record in made.records():
            assert all(value is None or isinstance(value, (str, int, float)) for value in record.values())


def test_without_pandas_the_hint_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for make in (latency, interleaved, lambda: STAGES):
        with pytest.raises(BackendUnavailable, match=r"pandas.*rtaccel\[table\]"):
            make().to_dataframe()
    with pytest.raises(BackendUnavailable, match="pandas"):
        latency().to_dataframe(samples=True)


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_data_frames() -> None:
    found = latency()
    assert found.to_dataframe().p99_us[0] == found.p99_us
    calls = found.to_dataframe(samples=True)
    assert np.array_equal(calls.us.to_numpy(np.float32), found.samples_us)
    assert len(interleaved().to_dataframe()) == 60
    assert list(STAGES.to_dataframe().name) == ["a<b>", "c"]
