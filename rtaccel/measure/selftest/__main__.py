"""`python -m rtaccel.measure.selftest`: every figure, in Markdown, and exit code 1 where one misses what it should be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from fractions import Fraction

from rtaccel.measure.selftest import real
from rtaccel.measure.selftest.scenarios import SCENARIOS, Scenario
from rtaccel.measure.selftest.simulate import decided, errors
from rtaccel.measure.statistics.quantiles import TAILS

CALLS = {"p50": (100, 3_000), "p99": (662, 3_000, 20_000), "p999": (6_636,)}
"""Calls in a simulated run, per percentile."""

WRONG, UNDECIDED = 0.01, 0.10


def main(arguments: list[str] | None = None) -> int:
    """The number of figures that miss what they should be, as an exit code of 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m rtaccel.measure.selftest", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="simulated runs per row (10,000)")
    parser.add_argument("--comparisons", type=int, default=100, help="real comparisons of a function with itself (100)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each comparison (1)")
    parser.add_argument("--only", choices=("simulated", "real"), help="one half of it")
    chosen = parser.parse_args(arguments)
    missed = 0
    if chosen.only != "real":
        missed += _say_errors(chosen.runs)
        missed += _say_decided(chosen.runs)
    if chosen.only != "simulated":
        missed += _say_real(chosen.comparisons, chosen.seconds)
    return int(missed > 0)


def cases() -> Iterator[tuple[Scenario, str, int]]:
    """(scenario, percentile, calls) of every simulated row. The middle is no rare event: p50 is for the plain and the
    autocorrelated one; p99.9 takes long runs and is for the plain ones."""
    for scenario in SCENARIOS:
        yield from ((scenario, "p99", max(n, scenario.shortest)) for n in CALLS["p99"])
    for scenario in (SCENARIOS[0], SCENARIOS[2]):
        yield from ((scenario, "p50", n) for n in CALLS["p50"])
    for scenario in SCENARIOS[:2]:
        yield from ((scenario, "p999", n) for n in CALLS["p999"])


def _say_errors(runs: int) -> int:
    print("| simulated calls | percentile | calls | false PASS | false FAIL |\n|---|---|---|---|---|")
    missed, seen = 0, set()
    for scenario, quantile, n in cases():
        if (scenario.name, quantile, n) in seen:
            continue
        seen.add((scenario.name, quantile, n))
        found = errors(scenario, quantile, n, runs)
        figures = f"{found.false_pass:.2%} | {found.false_fail:.2%}"
        print(f"| {scenario.name} | {quantile} | {n:,} | {figures} |", flush=True)
        missed += max(found.false_pass, found.false_fail) > WRONG
    return missed


def _say_decided(runs: int) -> int:
    print("\n| simulated calls | over the limit | first calls | wrong | UNDECIDED | calls in the end |")
    print("|---|---|---|---|---|---|")
    missed, tail = 0, TAILS["p99"]
    for scenario in SCENARIOS:
        for share in (tail / 2, tail * 2) if scenario.steady else ():
            missed += _say_one(scenario, share, runs)
    return missed


def _say_one(scenario: Scenario, share: Fraction, runs: int) -> int:
    n = max(662, scenario.shortest)
    found = decided(scenario, "p99", float(share), n, runs)
    row = f"{float(share):.1%} | {n:,} | {found.wrong:.2%} | {found.undecided:.2%} | {found.samples:,}"
    print(f"| {scenario.name} | {row} |", flush=True)
    return (found.wrong > WRONG) + (found.undecided >= UNDECIDED)


def _say_real(comparisons: int, seconds: float) -> int:
    cost = real.overhead()
    print(
        f"\nTiming one call: {cost.per_call_ns:.1f} ns, of which {cost.in_sample_ns:.0f} ns are in the sample; "
        f"100,000 of them leave {cost.blocks} blocks of Python's and hold {cost.bytes} bytes more at most.",
        flush=True,
    )
    verdicts = real.spins()
    print("Spins of 20 us: " + ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items()), flush=True)
    same = [c.verdict for c in real.against_itself(comparisons, seconds)]
    unlike = comparisons - same.count("no difference")
    print(f"A function of 20 us against itself: no difference in {comparisons - unlike} of {comparisons}", flush=True)
    tries = max(1, comparisons // 10)
    found = [c.verdict for c in real.against_slower(tries, seconds)].count("slower")
    print(f"10 % slower: found in {found} of {tries} comparisons of {seconds:g} s", flush=True)
    added = real.plugin_seconds()
    print(f"The plugin adds {added:.3f} s of processor time to a session that does not use it", flush=True)
    right = verdicts["p50 below"] == verdicts["p99 below"] == "FAIL" and verdicts["p50 above"] == "PASS"
    return sum(
        (cost.per_call_ns > 60, cost.bytes > 128, not right, unlike > 0.05 * comparisons, found < tries, added > 0.3)
    )


if __name__ == "__main__":
    sys.exit(main())
