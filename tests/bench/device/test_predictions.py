"""Predictions before a card: the simulation against closed forms, and the page against what the command writes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.device import predictions
from bench.device.predictions import LOW, Machine, Work, message_us


def rng() -> np.random.Generator:
    return np.random.default_rng()


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_a_null_message_waits_for_the_next_poll(in_flight: int) -> None:
    """U(0, period) + two ways + the host's poll; without the last, every quantile is known."""
    machine = Machine(0.7, 0.2, host_us=0.0, in_flight=in_flight)
    us = message_us(machine, Work(), rng())
    period = 1.4 / in_flight
    for q in (0.1, 0.5, 0.99):
        assert np.quantile(us, q) == pytest.approx(1.4 + q * period, abs=0.02)
    assert us.min() >= 1.4 and us.max() <= 1.4 + period


def test_the_last_of_several_warps_decides() -> None:
    """The largest of w uniform numbers has the mean w / (w + 1)."""
    machine = Machine(0.7, 0.2, host_us=0.0)
    for warps in (1, 2, 8):
        assert message_us(machine, Work(warps=warps), rng()).mean() == pytest.approx(
            1.4 + 1.4 * warps / (warps + 1), abs=0.02
        )


def test_work_and_exchanges_add() -> None:
    base = message_us(LOW, Work(), rng()).mean()
    assert message_us(LOW, Work(clocks=17_550), rng()).mean() == pytest.approx(base + 10, abs=0.05)
    one = message_us(LOW, Work(blocks=2, exchanges=1), rng()).mean()
    assert one - base == pytest.approx(LOW.l2_us * (1 + 2 / 3), abs=0.02)
    assert message_us(LOW, Work(blocks=64, exchanges=1), rng()).mean() > one


def test_a_mapping_needs_no_poll_over_the_link() -> None:
    us = message_us(replace(LOW, mapped=True), Work(), rng())
    assert us.max() <= 2 * LOW.link_us + 1.5 * LOW.l2_us + 2 * LOW.host_us


def test_the_page_is_what_the_command_writes() -> None:
    found = predictions.predicted()
    kept = json.loads(predictions.RESULT.read_text())
    assert kept.keys() == found.keys()
    for name, row in found.items():
        for way in predictions.WAYS:
            for end in ("low", "high"):
                assert row[way][end] == pytest.approx(kept[name][way][end], rel=0.02)
    assert predictions.PAGE.read_text() == predictions.page(kept)
