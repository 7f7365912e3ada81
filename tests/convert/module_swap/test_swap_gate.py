"""Layers that are not faster are kept: what a gain is, and how the two are compared."""

from __future__ import annotations

import torch

import rtaccel as rt
from rtaccel.convert.module_swap import benchmark
from tests.convert.module_swap.test_swap import quick  # noqa: F401
from tests.support.networks.swapped_models import actions, make


def test_a_layer_that_is_not_faster_is_kept(monkeypatch) -> None:
    times = {24: (5.0, 2.5), 40: (3.0, 3.0), 16: (1.25, 4.75)}
    monkeypatch.setattr(benchmark, "compare", lambda before, after, x: times[x.shape[-1]])
    model = make()
    before = model[3]
    report = rt.quantize_(model, "w8a8")
    assert actions(report) == {"0": "swapped", "2.0": "kept", "3": "kept"}
    assert [(e.us_before, e.us_after) for e in report] == [times[24], times[40], times[16]]
    assert report.entries[2].reason.startswith("not faster")
    assert "1.25" in report.entries[2].reason
    assert "4.75" in report.entries[2].reason
    assert model[3] is before
    forced = rt.quantize_(model, "w8a8", force=True)
    assert actions(forced) == {"2.0": "swapped", "3": "swapped"}
    assert forced.entries[1].reason.startswith("forced")


def test_a_gain_within_the_margin_is_chance_and_swaps_nothing(monkeypatch) -> None:
    times = {24: (62.82, 61.85), 40: (100.0, 95.1), 16: (100.0, 94.9)}
    monkeypatch.setattr(
        benchmark, "compare", lambda before, after, x: benchmark.Compared(*times[x.shape[-1]], spread=0.02)
    )
    model = make()
    report = rt.quantize_(model, "w8a8")
    assert actions(report) == {"0": "kept", "2.0": "kept", "3": "swapped"}
    assert report.entries[0].reason.startswith("not faster by 5%: 61.85 us against 62.82 us")
    assert "unsteady" not in str(report)


def test_an_unsteady_baseline_is_noted(monkeypatch) -> None:
    monkeypatch.setattr(
        benchmark, "compare", lambda before, after, x: benchmark.Compared(3.0, 1.0, 0.41 if len(x) else 0)
    )
    report = rt.quantize_(make(), "w8a8")
    assert all(e.spread == 0.41 and "unsteady, half of those times spread over 41%" in e.reason for e in report)


def test_compare_calls_both_in_turn(monkeypatch) -> None:
    monkeypatch.undo()
    order, x = [], torch.randn(1, 4)
    before, after, spread = benchmark.compare(lambda v: order.append("before"), lambda v: order.append("after"), x)
    assert before >= 0 <= after and spread >= 0
    assert order.count("before") == order.count("after") == 5 + benchmark.ROUNDS
    timed = order[10:]
    assert timed[:4] in (["before", "after", "after", "before"], ["after", "before", "before", "after"])
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(benchmark, "perf_counter_ns", lambda: next(ticks))
    assert benchmark.compare(lambda v: next(ticks), lambda v: None, x) == (2.0, 1.0, 0.0)


def test_the_real_gate_runs(monkeypatch) -> None:
    monkeypatch.undo()
    model, x = make(), torch.randn(4, 24)
    report = rt.quantize_(model, "w8a8", calibration=[x], force=True)
    assert report.swapped == 3
    assert all(e.us_before > 0 and e.us_after > 0 for e in report)
