"""The self-test of the harness: its simulated calls are what it says, and its fast part holds the rates.

The full one, `python -m rtaccel.measure.selftest`, takes 10,000 runs per row and real comparisons besides.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtaccel import _native
from rtaccel.measure.selftest import __main__ as command
from rtaccel.measure.selftest import real
from rtaccel.measure.selftest.scenarios import SCENARIOS, Scenario, autocorrelated, two_modes
from rtaccel.measure.selftest.simulate import decided, errors

RUNS = 300
MAX = 0.01 + 3 * math.sqrt(0.01 / RUNS)
"""One in a hundred, and three standard deviations of what so few runs show."""

NAMES = [scenario.name for scenario in SCENARIOS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_the_limit_is_exceeded_by_the_share_asked_for(scenario: Scenario) -> None:
    calls = scenario.draw(np.random.default_rng(0), 400, 3_000)
    assert calls.shape == (400, 3_000)
    for share in (0.5, 0.01):
        by_run = (calls > scenario.limit(share)).mean(axis=1)
        assert by_run.mean() == pytest.approx(share, abs=4 * by_run.std() / 20 + 1e-9)


def test_dependence_is_as_asked_for() -> None:
    rng = np.random.default_rng(1)
    logs = np.log(autocorrelated(0.9).draw(rng, 300, 1_000))
    assert np.corrcoef(logs[:, :-1].ravel(), logs[:, 1:].ravel())[0, 1] == pytest.approx(0.9, abs=0.01)
    slow = two_modes(0.02, 5, 20.0).draw(rng, 300, 10_000) > 5
    visits = (slow[:, 1:] & ~slow[:, :-1]).sum()
    assert slow[:, 1:].sum() / visits == pytest.approx(5, rel=0.05)
    assert slow[:, 0].mean() < 0.06


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_wrong_verdicts_are_rare_where_they_are_likeliest(scenario: Scenario) -> None:
    found = errors(scenario, "p99", max(1_000, scenario.shortest), RUNS)
    assert found.false_pass <= MAX
    assert found.false_fail <= MAX


@pytest.mark.parametrize("quantile", ["p50", "p90"])
def test_wrong_verdicts_of_other_percentiles(quantile: str) -> None:
    found = errors(SCENARIOS[2], quantile, 1_000, RUNS)
    assert max(found.false_pass, found.false_fail) <= MAX


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.steady and s.shortest < 1_000], ids=lambda s: s.name)
@pytest.mark.parametrize("share", [0.005, 0.02])
def test_the_stated_number_of_samples_decides(scenario: Scenario, share: float) -> None:
    found = decided(scenario, "p99", share, 662, 100)
    assert found.wrong <= 0.03
    assert found.undecided < 0.1 + 3 * math.sqrt(0.1 / 100)
    assert found.samples > 662


def test_rates_are_counted_from_the_verdicts() -> None:
    """Calls that never exceed the limit pass, calls that always do fail: a check that cannot fail would show here."""
    quick = Scenario("quick", lambda rng, runs, n: np.full((runs, n), 1.0), lambda x: 0.02 if x < 5 else 0.0)
    slow = Scenario("slow", lambda rng, runs, n: np.full((runs, n), 9.0), lambda x: 0.02 if x < 5 else 0.0)
    assert errors(quick, "p99", 700, 5).false_pass == 1.0
    assert errors(slow, "p99", 700, 5).false_fail == 1.0
    assert decided(slow, "p99", 0.005, 700, 5).wrong == 1.0
    short = errors(quick, "p99", 600, 5)
    assert (short.false_pass, short.false_fail) == (0.0, 0.0)
    assert decided(quick, "p99", 0.005, 600, 5).undecided == 0.0  # done anew with the number said


def test_spins_of_known_length_fall_on_the_right_side() -> None:
    verdicts = real.spins(seconds=0.3)
    assert verdicts["p50 below"] == "FAIL"
    assert verdicts["p99 below"] == "FAIL"
    assert verdicts["p50 above"] in ("PASS", "UNDECIDED")  # a machine that stops us half of the time proves nothing
    assert verdicts["p99 above"] != "FAIL" or verdicts["p50 above"] == "PASS"


def test_the_busy_wait_is_as_long_as_it_says() -> None:
    for ns in (1_000, 200_000):
        begin = _native.now_ns()
        _native.busy(ns)
        assert _native.now_ns() - begin >= ns


def test_the_command_prints_every_row_and_says_what_misses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SCENARIOS", SCENARIOS[:3])
    monkeypatch.setattr(command, "CALLS", {"p50": (100,), "p99": (662,), "p999": (6_636,)})
    assert command.main(["--runs", "20", "--only", "simulated"]) in (0, 1)
    printed = capsys.readouterr().out
    assert printed.count("| p99 |") == 3
    assert printed.count("| p50 |") == 2
    assert "| independent | 0.5% | 662 |" in printed
    monkeypatch.setattr(command, "WRONG", -1.0)
    assert command.main(["--runs", "2", "--only", "simulated"]) == 1
