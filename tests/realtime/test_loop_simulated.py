"""The loop in simulated time: what it counts is what was injected, and it recovers exactly."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtaccel as rt
from rtaccel.core.errors import BudgetExceeded, FormatError, UnsupportedProblem
from rtaccel.realtime import Simulation

COUNTED = ("cycles", "stale", "misses", "skipped", "waiting")

TROUBLE = {
    "produce_us": 1000,
    "delay_us": 300,
    "p_gap": 0.004,
    "gap_us": 9000,
    "p_burst": 0.5,
    "p_reorder": 0.01,
    "p_clock": 0.002,
    "clock_us": -2500,
    "wake_us": 20,
    "p_stall": 0.003,
    "stall_us": 2600,
    "step_us": 30,
    "p_slow": 0.002,
    "slow_us": 450,
}


def simulated(seed: int = 0, loop: dict[str, Any] | None = None, **world: float) -> tuple[Any, Any, Any]:
    x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
    sim = Simulation(x, seed, **{**TROUBLE, **world})
    return rt.Loop(sim.model(), x, y, simulation=sim, **(loop or {})), sim, y


def same_counts(loop: Any, sim: Any, also: tuple[str, ...] = ("fresh",)) -> None:
    stats, counts = loop.stats(), sim.counts()
    assert {key: getattr(stats, key) for key in (*COUNTED, *also)} == {key: counts[key] for key in (*COUNTED, *also)}
    assert stats.wake_error.n == stats.work.n == stats.response.n == stats.cycles
    assert stats.age.n == stats.cycles - stats.waiting


@pytest.mark.parametrize("on_miss", ["hold", "late", "catch_up"])
def test_a_million_cycles(on_miss: str) -> None:
    loop, sim, _ = simulated(7, {"on_miss": on_miss})
    loop.run(1_000_000)
    same_counts(loop, sim)
    stats = loop.stats()
    assert stats.cycles + stats.skipped in range(1_000_000, 1_000_010)
    assert min(stats.stale, stats.misses, stats.held, stats.overwritten, sim.counts()["overtaken"]) > 1000
    assert (stats.skipped == 0) == (on_miss == "catch_up")
    assert (stats.caught_up > 0) == (on_miss == "catch_up")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    on_miss=st.sampled_from(["hold", "late", "catch_up"]),
    world=st.fixed_dictionaries(
        {
            "produce_us": st.sampled_from([70, 333.3, 1000, 5000]),
            "delay_us": st.sampled_from([0, 150, 4000]),
            "p_gap": st.sampled_from([0, 0.01, 0.3]),
            "gap_us": st.sampled_from([1000, 20_000]),
            "p_burst": st.sampled_from([0, 0.5, 1]),
            "p_reorder": st.sampled_from([0, 0.2]),
            "p_clock": st.sampled_from([0, 0.05]),
            "clock_us": st.sampled_from([-3000, 3000]),
            "wake_us": st.sampled_from([0, 60]),
            "p_stall": st.sampled_from([0, 0.05]),
            "stall_us": st.sampled_from([150, 1000, 7777.7]),
            "step_us": st.sampled_from([0, 90]),
            "p_slow": st.sampled_from([0, 0.05]),
            "slow_us": st.sampled_from([210, 1000, 2500]),
            "sleep_us": st.sampled_from([0, 50, 600]),
        }
    ),
    period=st.sampled_from([250, 1000, 1234.5]),
    spin=st.sampled_from([0, 80, "auto"]),
)
def test_any_world_is_counted_exactly(
    seed: int, on_miss: str, world: dict[str, float], period: float, spin: float | str
) -> None:
    loop, sim, _ = simulated(seed, {"on_miss": on_miss, "period_us": period, "spin_us": spin}, **world)
    loop.run(3000)
    same_counts(loop, sim)


def test_fallback_and_forecast_are_counted() -> None:
    for mode in ("fallback", "forecast"):
        x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
        sim = Simulation(x, 5, **{**TROUBLE, "p_slow": 0, "p_stall": 0})
        loop = rt.Loop(sim.model(), x, y, simulation=sim, on_stale=mode, **{mode: sim.model()})
        loop.run(100_000)
        stats = loop.stats()
        assert getattr(stats, mode) == stats.stale > 1000
        assert stats.held == 0
        assert stats.fresh + stats.stale + stats.waiting == stats.cycles


def test_the_same_seed_gives_the_same() -> None:
    one, other = simulated(11)[0], simulated(11)[0]
    for loop in (one, other):
        loop.run(20_000)
    a, b = one.stats().to_dict(), other.stats().to_dict()
    assert {k: v for k, v in a.items() if k != "pid"} == {k: v for k, v in b.items() if k != "pid"}
    third = simulated(12)[0]
    third.run(20_000)
    assert third.stats().to_dict() != a


def test_recovery_is_exact() -> None:
    loop, sim, y = simulated(3, p_gap=0.2, p_stall=0.1, delay_us=0)
    loop.run(50_000)
    sim.calm()
    loop.run(50)  # what was under way arrives
    before = loop.stats()
    last = y.get()
    for _ in range(200):
        loop.run(1)
        got = y.get()
        assert got.origin == "fresh"
        assert got.value[0] == last.value[0] + 1
        assert got.stamp_ns - last.stamp_ns == 1_000_000
        assert got.seq == last.seq + 1
        last = got
    after = loop.stats()
    assert (after.stale, after.misses, after.skipped, after.held) == (
        before.stale,
        before.misses,
        before.skipped,
        before.held,
    )
    assert after.streak == 0
    assert after.longest_streak == before.longest_streak > 0
    same_counts(loop, sim)


def test_what_is_published_in_a_gap() -> None:
    """Held results keep number and stamp of what they were computed from; origins say what they are."""
    loop, _, y = simulated(3, p_gap=0.05, p_stall=0, p_slow=0, p_reorder=0, p_clock=0, delay_us=0, p_burst=0)
    seen, newest = set(), 0
    for _ in range(3000):
        loop.run(1)
        got = y.get()
        if got.status == "none":
            continue
        seen.add(got.origin)
        if got.origin == "fresh":
            assert got.value[0] >= newest
            newest = got.value[0]
        else:
            assert got.value[0] == newest
    assert seen == {"fresh", "held"}


def test_a_forecast_goes_on_from_its_own() -> None:
    x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
    sim = Simulation(x, 4, produce_us=1000, p_gap=0.05, gap_us=12_000, wake_us=5)

    def following(value: Any) -> Any:
        return value + np.array([1, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = rt.Loop(sim.model(), x, y, simulation=sim, on_stale="forecast", forecast=following, max_age_us=500)
    origins = []
    run, last = 0, 0
    for _ in range(4000):
        loop.run(1)
        got = y.get()
        origins.append(got.origin)
        if got.origin == "fresh":
            run, last = 0, got.value[0]
        elif got.origin == "forecast":
            run += 1
            assert got.value[0] == last + run  # one ahead of the last input, or of the forecast before
    assert {"fresh", "forecast"} <= set(origins)
    assert loop.stats().forecast == origins.count("forecast")


def test_an_old_input_can_be_left_alone() -> None:
    loop, _, _ = simulated(2, {"on_old": "hold"}, produce_us=2500, p_gap=0, p_stall=0, p_slow=0, p_clock=0, p_reorder=0)
    loop.run(5000)
    stats = loop.stats()
    assert stats.repeated == 0
    assert stats.fresh == pytest.approx(2000, abs=3)
    assert stats.held == pytest.approx(3000, abs=3)


def test_multi_rate() -> None:
    x, y, z = (rt.Latest((2,), "int64") for _ in range(3))
    sim = Simulation(x, 1, **{**TROUBLE, "p_gap": 0})
    loop = rt.Loop(sim.model(), x, y, simulation=sim).every(10, sim.model(), write=z)
    loop.run(10_000)
    stats = loop.stats()
    assert stats.every_runs == pytest.approx(1000, abs=2)  # a skipped grid point does not shift the others
    assert z.get().seq == stats.every_runs
    assert z.get().origin == "fresh"


@pytest.mark.parametrize(
    ("options", "world", "words"),
    [
        ({"on_stale": "raise"}, {"p_gap": 0.01, "gap_us": 50_000, "p_burst": 0}, "max_age_us"),
        ({"on_miss": "raise"}, {"p_slow": 0.01}, "deadline_us"),
    ],
)
def test_raise_comes_out_where_the_owner_looks(options: dict[str, str], world: dict[str, float], words: str) -> None:
    loop, _, _ = simulated(3, options, **{"p_stall": 0, **world})
    with pytest.raises(BudgetExceeded, match=words):
        loop.run(100_000)
    with pytest.raises(BudgetExceeded, match=words):
        loop.stats()
    assert loop.stats(check=False).state == "failed"


def test_a_fallback_and_its_policy_go_together() -> None:
    x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
    sim = Simulation(x, 0, produce_us=1000)
    with pytest.raises(FormatError, match="go together"):
        rt.Loop(sim.model(), x, y, simulation=sim, fallback=sim.model())
    with pytest.raises(FormatError, match="go together"):
        rt.Loop(sim.model(), x, y, simulation=sim, on_stale="forecast")


def test_misuse() -> None:
    loop, sim, y = simulated()
    with pytest.raises(UnsupportedProblem, match="simulated"):
        loop.start()
    with pytest.raises(FormatError):
        loop.run(0)
    loop.run(5)
    with pytest.raises(FormatError):
        loop.every(2, sim.model(), write=rt.Latest((2,), "int64"))
    with pytest.raises(FormatError):
        Simulation(rt.Latest((2,), "int64"), produce_us=1000, p_typo=1)
    with pytest.raises(FormatError):
        Simulation(rt.Latest((2,), "int64"))
    with pytest.raises(FormatError):
        Simulation(rt.Latest((1,)), produce_us=10)
    with pytest.raises(UnsupportedProblem):  # the simulation writes that slot
        loop._inputs[0].put(np.zeros(2, np.int64))
    with pytest.raises(UnsupportedProblem):
        y.put(np.zeros(2, np.int64))


@pytest.mark.parametrize("sleep_us", [5, 60, 300])
def test_the_spin_time_is_learned(sleep_us: float) -> None:
    """Sleeps end up to so much late, evenly: 99 of 100 cycles begin in time, and no more is spun than that takes."""
    loop, sim, _ = simulated(1, {"spin_us": "auto"}, wake_us=0, p_stall=0, sleep_us=sleep_us)
    assert loop.stats().spin_us == 80
    loop.run(3000)
    before = loop.stats()
    loop.run(20_000)
    after = loop.stats()
    late = sum(n for end, n in after.wake_error.buckets if end > 0) - sum(
        n for end, n in before.wake_error.buckets if end > 0
    )
    assert 0.8 * sleep_us < after.spin_us < 1.35 * sleep_us + 5
    assert late < 0.02 * 20_000
    same_counts(loop, sim)


def test_the_spin_time_follows_the_host_within_half_a_period() -> None:
    fixed, _, _ = simulated(2, {"spin_us": 80}, wake_us=0, p_stall=0, sleep_us=300)
    fixed.run(5000)
    assert fixed.stats().wake_error.p50_us > 50
    assert fixed.stats().spin_us == 80
    short, sim, _ = simulated(2, {"spin_us": "auto", "period_us": 250, "deadline_us": 200}, wake_us=0, sleep_us=600)
    short.run(5000)
    assert short.stats().spin_us == 125
    same_counts(short, sim)
    with pytest.raises(FormatError, match="spin_us"):
        simulated(2, {"spin_us": "car"})
