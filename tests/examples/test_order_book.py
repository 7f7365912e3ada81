"""The market's arithmetic, the network against its window and ONNX Runtime, what the head learns, and what is dropped."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from examples._shared.outcome import Missing
from examples.order_book import book, live, run, signals
from examples.order_book.network import Network, Step, Tapped, train
from examples.order_book.peer import Peer
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def found() -> run.Quality:
    return run.quality(100_000, 3, 5_000)


def test_a_book_is_one() -> None:
    session = book.simulate(5000, seed=3)
    levels = session.ticks[:, :40].reshape(-1, 10, 4)
    assert (levels[:, 0, 1] >= 0.5).all() and (levels[:, 0, 3] >= 0.5).all()  # the best prices have orders
    assert (levels[:, :, [1, 3]] >= 0).all()
    np.testing.assert_allclose(np.diff(levels[:, :, 0], axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(levels[:, 0, 0] - levels[:, 0, 2], session.spread, atol=1e-3)
    assert (session.spread >= 1).all()
    assert (np.abs(session.ticks[:, 40]) > 0).mean() == pytest.approx(0.2, abs=0.03)
    again = book.simulate(5000, seed=3)
    np.testing.assert_array_equal(session.ticks, again.ticks)


def test_labels_are_the_mean_of_what_comes() -> None:
    mid = np.random.default_rng(0).normal(size=300).cumsum().astype(np.float32)
    wanted = [mid[i + 1 : i + 1 + book.HORIZON].mean() - mid[i] for i in range(300 - book.HORIZON)]
    np.testing.assert_allclose(book.change(mid), wanted, atol=1e-4)
    classes = book.labels(mid, book.threshold(mid))
    assert (classes == 1).mean() == pytest.approx(1 / 3, abs=0.01)
    assert (np.array(wanted)[classes == 2] > 0).all()


def test_the_past_tells_more_than_the_newest_tick(found: run.Quality) -> None:
    assert found.accuracy["snapshot"] >= 0.5
    assert found.accuracy["float32"] >= found.accuracy["snapshot"] + 0.02
    assert found.accuracy["w8a8"] >= found.accuracy["float32"] - 0.01
    assert found.window_difference < 1e-4


def test_the_head_learns_another_market(found: run.Quality) -> None:
    truth = found.shifted_truth
    assert signals.accuracy(found.shifted.served, truth) >= signals.accuracy(found.frozen, truth) + 0.03
    assert found.shifted.committed.any() and not found.shifted.committed[: book.HORIZON].any()
    assert found.shifted.learner.waiting == book.HORIZON  # labels of the last ticks are not known


def test_a_step_with_its_past_outside_is_the_window() -> None:
    torch.manual_seed(1)
    x = torch.from_numpy(book.simulate(40, seed=5).ticks)
    network = Network(x.numpy().mean(0), x.numpy().std(0) + 1e-6).eval()
    step, past = Step(network).eval(), (torch.zeros(1, 32, 8), torch.zeros(1, 32), torch.zeros(1, 32))
    with torch.no_grad():
        whole = network(x[None])[0]
        tapped = Tapped(network)(x[None])[0]
        for t in range(len(x)):
            scores, *past = step(x[t : t + 1], *past)
            torch.testing.assert_close(scores[0], whole[t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tapped[:, :3], torch.softmax(whole, 1))


def test_onnx_runtime_says_the_same(found: run.Quality) -> None:
    try:
        peer = Peer(found.network)
    except Missing as missing:
        pytest.skip(str(missing))
    ours = signals.run(found.streams["float32"], found.test.ticks[:200])
    theirs = np.array([peer.step(tick).copy() for tick in found.test.ticks[:200]])
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    peer.reset()
    np.testing.assert_array_equal(peer.step(found.test.ticks[0]), theirs[0])


def test_training_is_deterministic() -> None:
    session = book.simulate(8000, seed=0)
    one, two = (train(session, 1.0, seed=5, epochs=1) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)


def test_only_the_newest_of_a_period_is_stepped(found: run.Quality) -> None:
    truth = found.truth
    every = np.arange(1, len(found.test.mid) + 1) * 100.0
    whole, share = signals.conflated(found.streams["float32"], found.test, truth, every, 100.0)
    assert share == 1 and whole == pytest.approx(
        signals.accuracy(signals.run(found.streams["float32"], found.test.ticks), truth)
    )
    _, half = signals.conflated(found.streams["float32"], found.test, truth, every, 200.0)
    assert half == pytest.approx(0.5, abs=1e-3)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the feed and the loop, which spins, need a core each")
def test_a_burst_leaves_no_queue_and_old_ticks_no_signals(found: run.Quality) -> None:
    one = live.run(found.streams["float32"], found.test.ticks, 1500, seed=4)
    times, late = live.arrivals(1500, seed=4)
    assert one.late == late.sum() > 5 and one.late_signals == 0
    assert (np.diff(times) > 0).all() and np.median(np.diff(times)) < live.QUIET_US
    assert one.stats.fresh + one.overwritten <= one.ticks
    assert 0 < len(one.us) <= one.stats.fresh and (one.us > 0).all()
    assert one.stats.stale > 0 and one.stats.repeated == 0
    found.streams["float32"].reset()


@pytest.mark.turns(3)
def test_command(tmp_path: Path) -> None:
    command = [*PYTHON, "examples/order_book/run.py", "--quick"]
    command += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr  # 1 where a busy machine was slow
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["metrics"]["accuracy_float32"] >= told["metrics"]["accuracy_snapshot"] + 0.04
    assert told["metrics"]["late_signals_float32"] == told["metrics"]["late_signals_w8a8"] == 0
    assert f"verdict: {told['verdict']}" in done.stdout
    assert (tmp_path / "a.html").read_text().count("<svg") == 6
