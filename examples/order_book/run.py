"""From tick to signal: a DeepLOB-like network over a simulated order book, one step a tick, under bursts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared.device import on_device
from examples._shared.outcome import Limit, Missing, Outcome, main
from examples._shared.timing import per_call_us
from examples.order_book import book, live, signals
from examples.order_book.network import EPOCHS, Network, snapshot_baseline, train, windows
from examples.order_book.peer import Peer
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

TRAIN, TEST, SHIFTED = 300_000, 30_000, 12_000
MEASURES = {"accuracy": signals.accuracy, "recall": signals.recall}
SPREAD = 500
"""Ticks over which accuracy is smoothed in the drawing."""


@dataclass(frozen=True)
class Quality:
    """Accuracies on a session of the market that was trained on, and on one of another market."""

    network: Network
    streams: dict[str, rt.StreamModel]
    accuracy: dict[str, float]
    recall: dict[str, float]
    window_difference: float
    shifted: signals.Adapted
    shifted_truth: signals.I64
    frozen: book.F32
    test: book.Session
    truth: signals.I64


def quality(count: int, epochs: int, shifted_count: int = SHIFTED) -> Quality:
    """Trains on one session, and judges on two others."""
    session, test = book.simulate(count, seed=0), book.simulate(TEST, seed=1)
    threshold = book.threshold(session.mid)
    truth = book.labels(test.mid, threshold)
    network = train(session, threshold, epochs=epochs)
    example = torch.from_numpy(test.ticks[:1])
    calibration = [windows(book.Session(*(part[:40_000] for part in session)), threshold)[0][:200]]
    streams = {
        "float32": rt.stream(network, example),
        "w8a8": rt.stream(network, example, "w8a8", calibration=calibration),
    }
    said = {scheme: signals.run(stream, test.ticks) for scheme, stream in streams.items()}
    with torch.no_grad():
        window = network(torch.from_numpy(test.ticks[None, :2000]))[0].numpy()
        said["snapshot"] = snapshot_baseline(session, threshold)(torch.from_numpy(test.ticks)).numpy()
    other = book.simulate(shifted_count, seed=2, absorbed=True)
    other_truth = book.labels(other.mid, book.threshold(other.mid))  # its prices move less
    return Quality(
        network,
        streams,
        {name: signals.accuracy(one, truth) for name, one in said.items()},
        {name: signals.recall(one, truth) for name, one in said.items()},
        float(np.abs(window - said["float32"][:2000]).max()),
        signals.adapt(network, other.ticks, other_truth),
        other_truth,
        signals.run(streams["float32"], other.ticks),
        test,
        truth,
    )


def step_times(found: Quality, peer: Peer | None, quick: bool) -> dict[str, float]:
    """us of a step, smallest of rounds that take turns."""
    calls: dict[str, Any] = {}
    for name, stream in found.streams.items():
        x = torch.from_numpy(found.test.ticks[:1].copy())
        calls[name] = stream.bind(x, out=torch.empty(1, 3))
    if peer is not None:
        calls["onnxruntime"] = peer
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(10 if quick else 40):
        for name, call in calls.items():
            best[name] = min(best[name], per_call_us(call, 200, 1)[0])
    for stream in found.streams.values():
        stream.reset()
    return best


def work(args: argparse.Namespace) -> Outcome:
    torch.set_num_threads(1)
    found = quality(TRAIN // 2 if args.quick else TRAIN, EPOCHS)
    peer, without = None, ""
    try:
        peer = Peer(found.network)
        ours = signals.run(found.streams["float32"], found.test.ticks[:500])
        peer_difference = float(max(np.abs(peer.step(t) - y).max() for t, y in zip(found.test.ticks, ours)))
        peer.reset()
    except Missing as error:
        without = f"Without ONNX Runtime: {error}."
    steps = step_times(found, peer, args.quick)
    count = 2000 if args.quick else 6000
    runs = {name: live.run(stream, found.test.ticks, count) for name, stream in found.streams.items()}
    if peer is not None:
        runs["onnxruntime"] = live.run(peer.step, found.test.ticks, count)
    for stream in found.streams.values():
        stream.reset()

    labels = {"float32": "rt.stream, float32", "w8a8": "rt.stream, W8A8", "onnxruntime": "ONNX Runtime, float32"}
    rows = [("", "accuracy", "step us", "tick to signal p50 us", "p99 us", "p99.9 us")]
    rows.append(("newest tick alone, logistic regression", f"{found.accuracy['snapshot']:.3f}", "", "", "", ""))
    for name, one in runs.items():
        told = f"{found.accuracy[name]:.3f}" if name in found.accuracy else "as ours"
        rows.append((labels[name], told, f"{steps[name]:.2f}", *(f"{one.at(p):.1f}" for p in (50, 99, 99.9))))
    served, frozen, other = found.shifted.served, found.frozen, found.shifted_truth
    won = {said: [measure(y, other) for y in (frozen, served)] for said, measure in MEASURES.items()}
    for said, right in zip(("another market, as trained", "the same, head learns (rt.online.Adapt)"), won["accuracy"]):
        rows.append((said, f"{right:.3f}", "", "", "", ""))
    largest = float(np.bincount(other).max() / len(other))
    arrivals, _ = live.arrivals(TEST, 0)
    dropped, share = signals.conflated(found.streams["float32"], found.test, found.truth, arrivals, live.PERIOD_US)
    metrics: dict[str, Any] = {
        "accuracy_snapshot": found.accuracy["snapshot"],
        "accuracy_float32": found.accuracy["float32"],
        "accuracy_w8a8": found.accuracy["w8a8"],
        "recall_float32": found.recall["float32"],
        "accuracy_newest_of_period": dropped,
        "share_stepped": share,
        **{
            f"{said}_shifted_{how}": value
            for said, both in won.items()
            for how, value in zip(("frozen", "adapted"), both)
        },
        "share_largest_class_shifted": largest,
        "window_difference": found.window_difference,
        "state_bytes": found.streams["float32"].state_bytes,
        **{f"step_us_{name}": us for name, us in steps.items()},
    }
    metrics |= {"p50_us": runs["float32"].at(50), "p99_us": runs["float32"].at(99), "p999_us": runs["float32"].at(99.9)}
    for name, one in runs.items():
        metrics |= {f"p{str(p).replace('.', '')}_us_{name}": one.at(p) for p in (50, 99, 99.9)}
        metrics |= {
            f"overwritten_{name}": one.overwritten,
            f"late_{name}": one.late,
            f"late_signals_{name}": one.late_signals,
        }
    limits = [
        Limit("accuracy over the newest tick alone", found.accuracy["float32"] - found.accuracy["snapshot"], 0.05, True),
        Limit("accuracy lost in W8A8", found.accuracy["float32"] - found.accuracy["w8a8"], 0.01),
        Limit("accuracy won by the head that learns", won["accuracy"][1] - won["accuracy"][0], 0.05, True),
        Limit("mean recall won by the head that learns", won["recall"][1] - won["recall"][0], 0.0, True),
        Limit("largest difference of stream and window", found.window_difference, 1e-4),
        Limit("signals from ticks that came too old", sum(one.late_signals for one in runs.values()), 0),
        Limit("median tick to signal, us", runs["float32"].at(50), 1000),
    ]  # fmt: skip
    if peer is not None:
        metrics["peer_difference"] = peer_difference
        limits.append(Limit("largest difference to ONNX Runtime", peer_difference, 1e-4))
    one = runs["float32"]
    notes = [
        f"Of {one.ticks:,} ticks in bursts {one.overwritten:,} were replaced by a newer one before the loop saw "
        f"them, and {one.late} came {live.LATE_US / 1e3:.0f} ms old: {one.late_signals} signals from those. "
        "One tick waits at most; there is no queue.",
        f"Where only the newest tick of each {live.PERIOD_US:.0f} us is stepped ({share:.0%} of them) the accuracy is "
        f"{dropped:.3f}.",
        f"In the other market trades tell the opposite. {largest:.0%} of its ticks are of one class; mean recall of the "
        f"three: {won['recall'][0]:.3f} as trained, {won['recall'][1]:.3f} with the head.",
        *([without] if without else []),
        *([] if live.cores() > 1 else ["One core: the loop and the feed took turns, and the loop did not spin."]),
    ]
    window = torch.from_numpy(found.test.ticks[None, :100].copy())
    on_card, said = on_device(args.device, found.network, window, window.repeat(256, 1, 1), "a window of 100 ticks")
    metrics |= on_card
    notes += said
    return Outcome(
        "order_book",
        "From tick to signal in an order book",
        "Causal convolutions and an LSTM over a simulated order book tell where the mid price goes. A tick costs one step of a "
        "stream; a slot keeps the newest tick alone, and what is too old makes no signal.",
        rows,
        metrics,
        limits,
        notes,
        _plots(found, runs),
    )


def _plots(found: Quality, runs: dict[str, live.Run]) -> list[str]:
    latency = Chart(
        "tick to signal",
        [Curve(name, np.arange(1, 1000) / 10, np.percentile(one.us, np.arange(1, 1000) / 10)) for name, one in runs.items()],
        x_title="percent of signals", y_title="us", log=True,
    )  # fmt: skip
    n = len(found.shifted_truth)
    kernel = np.ones(SPREAD) / SPREAD
    curves = []
    for name, said in (("as trained", found.frozen), ("head learns", found.shifted.served)):
        right = (said[:n, :3].argmax(1) == found.shifted_truth).astype(float)
        curves.append(Curve(name, np.arange(SPREAD - 1, n), np.convolve(right, kernel, "valid")))
    learning = Chart(f"accuracy over {SPREAD} ticks", curves, x_title="tick", y_title="accuracy", from_zero=True)
    show = slice(5000, 6500)
    x = np.arange(show.start, show.stop)
    mid = found.test.mid[show]
    scores = signals.run(found.streams["float32"], found.test.ticks[: show.stop])[show].argmax(1)
    moves = Chart(
        "mid price and signals",
        [
            Curve("mid price", x, mid),
            Curve("up", x[scores == 2][::10], mid[scores == 2][::10], dots=True),
            Curve("down", x[scores == 0][::10], mid[scores == 0][::10], dots=True),
        ],
        x_title="tick", y_title="price steps",
    )  # fmt: skip
    return [
        chart_section("Tick to signal", [latency], "The feed is a process of its own, with bursts of up to 40 ticks."),
        chart_section("Another market", [learning], "The label of a tick is known 50 ticks later."),
        chart_section("A part of the session", [moves], "Every tenth signal."),
    ]


if __name__ == "__main__":
    sys.exit(main("order_book", __doc__ or "", work))
