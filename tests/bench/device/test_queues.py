"""Requests that wait for each other: the simulation against closed forms, and where it is not a sum of delays."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.device import predictions
from bench.device.predict import queued, queues, text
from bench.device.predict.queues import Kernel, Server, Service, calls, exchange, lines_of
from bench.device.predictions import HIGH, LOW, ONE_POLL, WARPS_THAT_POLL, WIDTHS
from rtaccel.kernels.mlp.cuda.config import select_config
from tests.turns import turn

FREE = Service(0.0, 0.0, 0.0, 0.0)
"""Nobody waits for anybody."""


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def kernel(pollers: int, in_turn: bool = True, requests: int = 1, replies: int = 1, us: float = 0.0) -> Kernel:
    return Kernel(pollers, in_turn, requests, replies, lambda _: us)


def timed(
    of: Kernel, service: Service = FREE, models: int = 1, link_us: float = 0.7, host_us: float = 0.0
) -> np.ndarray:
    return calls([of] * models, link_us, host_us, service, 4000, rng())


def test_a_train_goes_on_with_its_head() -> None:
    """Five requests of 2 us that come at 10: the first goes on at 12, the last at 20. Who comes at 15 begins at 20."""
    server = Server()
    assert server.train(10, 10, 2, 5) == (10, 12, 20)
    assert server.train(15, 15, 2, 1) == (20, 22, 22)
    assert Server().train(0, 30, 2, 5) == (0, 2, 32)  # a train whose last comes late


@pytest.mark.parametrize("pollers", [1, 2, 4])
def test_without_service_times_it_is_the_sum(pollers: int) -> None:
    """U(0, a part of a round trip) and two ways, as bench.device.predictions has it."""
    us = timed(kernel(pollers))
    period = 1.4 / pollers
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(us, q) == pytest.approx(1.4 + q * period, abs=0.03)
    assert us.min() >= 1.4 - 1e-9 and us.max() <= 1.4 + period + 1e-9
    assert timed(kernel(pollers, us=3.0)).mean() == pytest.approx(us.mean() + 3, abs=0.03)


def test_warps_of_one_block_begin_together() -> None:
    """Not as independent draws: the last of eight comes with the first, where nothing is served."""
    one, eight = (timed(kernel(warps, in_turn=False)) for warps in (1, 8))
    assert np.quantile(eight, 0.5) == pytest.approx(np.quantile(one, 0.5), abs=0.03)
    independent = predictions.message_us(replace(LOW, link_us=0.7, host_us=0.0), predictions.Work(warps=8), rng())
    assert np.quantile(independent, 0.5) > np.quantile(eight, 0.5) + 0.4


def test_a_long_message_is_later_by_its_lines() -> None:
    """One poller: the last of 40 lines comes 39 services behind the first; so does the tail of an answer."""
    slow = Service(0.0, 0.0, 0.01, 0.0)
    short, long = (timed(kernel(1, requests=lines), slow) for lines in (1, 40))
    assert long.min() - short.min() == pytest.approx(0.39, abs=0.02)
    answer = timed(kernel(1, replies=40), slow)
    assert answer.min() - short.min() == pytest.approx(0.39, abs=0.02)


def test_pollers_are_in_the_way_of_each_other() -> None:
    """Looks of 40 lines of 10 ns: four at once fill the link, so their round trip grows, and a call with it."""
    slow = Service(0.0, 0.0, 0.01, 0.0)
    alone, crowded = timed(kernel(1, requests=40), slow), timed(kernel(16, requests=40), slow)
    free = timed(kernel(16, requests=40))
    assert crowded.mean() > free.mean() + 0.4 and crowded.max() > alone.min() + 0.4


def test_eight_kernels_share_the_link() -> None:
    light, heavy = Service(0.0001, 0.0001, 0.0001, 0.0), Service(0.0, 0.0, 0.02, 0.0)
    of = kernel(4, requests=5)
    assert timed(of, light, 8).mean() == pytest.approx(timed(of, light).mean(), rel=0.02)
    assert timed(of, heavy, 8).mean() > 1.5 * timed(of, heavy).mean()


def test_an_answer_waits_for_looks() -> None:
    """Reads go out by the way of the answer: with long requests it is later."""
    blocked = Service(0.05, 0.0, 0.0, 0.0)
    of = kernel(4, requests=5)
    assert timed(of, blocked).mean() > timed(of).mean() + 0.15


def test_an_exchange_of_two_blocks() -> None:
    """A way to L2 and back where all store at once; with a skew the first ones look in vain, and again after a round trip."""
    assert exchange(2, 4, 2, 0.3, FREE, rng()) == pytest.approx(0.3)
    times = [exchange(2, 4, 2, 0.3, replace(FREE, skew=0.2), np.random.default_rng(seed)) for seed in range(300)]
    assert min(times) >= 0.3 and max(times) <= 0.3 + 0.2 + 0.3 + 1e-9
    assert np.mean(times) > 0.45  # the block that was first is the last to have all


def test_a_line_serves_one_reader_at_a_time() -> None:
    """100 readers of 10 ns: the last has it a microsecond behind, and the looks in vain before it count as well."""
    slow = replace(FREE, slice=0.01)
    assert exchange(100, 16, 100, 0.3, slow, rng()) > 0.3 + 100 * 0.01
    one_writer = exchange(100, 16, 1, 0.3, slow, rng())
    assert 0.3 + 99 * 0.01 < one_writer < 0.3 + 0.3 + 2 * 100 * 0.01
    assert lines_of(16) == 1 and lines_of(17) == 2 and lines_of(641) == 41


# -- the rows ----------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_networks() -> None:
    step = "one time step, rtaccel w8a8 persistent"
    assert queued.sizes("null model, persistent", WARPS_THAT_POLL) == queued.Sizes(1, 1)
    assert queued.sizes(f"LSTM_C 4x1000, {step}", WARPS_THAT_POLL) == queued.Sizes(501, 1, (126, 250, 250, 250, 250))
    chain = "mlp 256-384-384-128, rtaccel w8a8 persistent"
    assert queued.sizes(chain, WARPS_THAT_POLL) == queued.Sizes(65, 128, (65, 96, 96))
    assert queued.sizes(chain, ONE_POLL) == queued.Sizes(257, 128, (65, 96, 96))


def test_the_exchanges_of_every_row_have_their_words() -> None:
    for name, of in predictions.rows():
        if not name.startswith("TCN"):
            for way in (WARPS_THAT_POLL, ONE_POLL):
                assert predictions.worked(of, way).exchanges <= len(queued.sizes(name, way).exchanged), name


TODAY = [case for i, case in enumerate(queued.of_table()) if i % 6 == turn(6)]


@pytest.mark.parametrize("case", TODAY, ids=lambda case: f"{case[0]}, {case[1]}")
def test_what_is_kept_is_what_is_simulated(case: tuple[str, str, Any]) -> None:
    name, way, simulate = case
    kept = json.loads(predictions.QUEUES.read_text())[name][way]
    found = simulate()
    for end in ("low", "high"):
        assert found[end] == pytest.approx(kept[end], rel=0.02)


def test_the_page_has_every_simulated_row() -> None:
    kept, sums = (json.loads(path.read_text()) for path in (predictions.QUEUES, predictions.RESULT))
    assert {(name, way) for name, ways in kept.items() for way in ways} == {case[:2] for case in queued.of_table()}
    assert "\n".join(queued.lines(kept, sums)) in predictions.PAGE.read_text()


def test_queues_are_seen_in_long_messages_and_nowhere_hide_a_delay() -> None:
    """640 words out: an eighth of a microsecond at the high end. Nothing is sooner by more than 0.1 us."""
    kept, sums = (json.loads(path.read_text()) for path in (predictions.QUEUES, predictions.RESULT))
    later = {
        (name, end): row[WARPS_THAT_POLL][end][1] - sums[name][WARPS_THAT_POLL][end][1]
        for name, row in kept.items() if name in sums for end in ("low", "high")
    }  # fmt: skip
    assert later["autoencoder 640-128x4-8-128x4-640, rtaccel w8a8 persistent", "high"] > 0.12
    assert later["null model, persistent", "high"] < 0.05 and min(later.values()) > -0.1
    assert text.page and HIGH.link_us > LOW.link_us and queues.HIGH.line > queues.LOW.line


def test_an_answer_in_two_parts_is_there_sooner() -> None:
    """By as much as the link takes for what leaves early, and no sooner than that."""
    whole = Kernel(4, True, 1, 40, lambda rng: 1.0)
    parts = replace(whole, early=(32, 0.3))
    late = replace(whole, early=(32, 0.0))
    us = [
        float(np.median(queues.calls([kernel], 0.9, 0.1, queues.HIGH, 2000, np.random.default_rng(0))))
        for kernel in (whole, parts, late)
    ]
    assert us[0] - us[1] == pytest.approx(32 * queues.HIGH.line, rel=0.1)
    assert us[2] == pytest.approx(us[0], rel=0.01)
    form = select_config(WIDTHS, ("relu",) * 9 + ("none",), 0)
    assert not isinstance(form, str)
    outputs, clocks = form.early()
    assert outputs == 4 * form.rows(9) and clocks < form.layer_clocks(9)
