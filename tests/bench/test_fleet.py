"""The simulated fleet: the same twice, nothing lost in the counting, and trouble where it was put."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from bench.fleet import SCENARIOS, STREAMS_A_NODE, Directory, Fleet, simulate
from bench.fleet_paper import OPTIONS, costs

SMALL = Fleet(nodes=40, rate=150, seconds=2)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_the_same_twice(scenario: str) -> None:
    once, again = simulate(SMALL, scenario), simulate(SMALL, scenario)
    assert once == again
    assert once.sent > 0
    assert 0 <= once.local + once.replaced <= once.sent
    assert 0 < once.p50_ms <= once.p99_ms <= once.p999_ms <= SMALL.deadline * 1e3


def test_trouble_is_where_it_was_put() -> None:
    steady, loss, restart = (simulate(SMALL, name) for name in ("steady", "loss", "restart"))
    assert steady.moved == 0
    assert steady.local < 0.002 * steady.sent
    # Two of forty nodes are gone for all of the time until they are found, and their requests with them.
    assert loss.local_trouble == pytest.approx(2 / 40, rel=0.5)
    assert loss.moved == pytest.approx(2 * STREAMS_A_NODE, rel=0.5)
    assert restart.moved == pytest.approx(2 * 40 * STREAMS_A_NODE, rel=0.2)  # away and back
    assert restart.local_trouble < loss.local_trouble / 4


def test_a_node_that_goes_moves_its_own_streams_alone() -> None:
    directory = Directory(50, 5000)
    before = directory.at.copy()
    directory.known[7] = False
    assert directory.update() == np.count_nonzero(before == 7)
    assert (directory.at[before != 7] == before[before != 7]).all()
    directory.known[7] = True
    directory.update()
    assert (directory.at == before).all()


def test_the_paper_adds_up() -> None:
    given = argparse.Namespace(nodes=1000, **{name: value for name, (value, _) in OPTIONS.items()})
    moved, edge, radio, net, node = costs(given, "cut_bytes", "answer_bytes", "edge_cut_ns", "node_ns")
    assert moved == 2 * (28 + 104) + 8 + 4
    assert (edge, node) == (pytest.approx(10e-6 * 0.1 * 1e6), pytest.approx(250e-9 * 10 * 1e6))
    assert radio / net == pytest.approx(given.radio_nj_bit / given.net_nj_bit)
    assert costs(given, 0, 0, "edge_full_ns", None)[0] == 0
