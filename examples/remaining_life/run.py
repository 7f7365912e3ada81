"""Remaining life of turbofans: streaming features and a small network, in int8, and learning on another fleet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared import data
from examples._shared.device import on_device
from examples._shared.outcome import Limit, Outcome, main
from examples._shared.timing import per_call_us
from examples.remaining_life import chosen, engines, shifted
from examples.remaining_life.train import EPOCHS, Network, calibration, samples, train
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

F32 = engines.F32


def predictions(model: object, x: F32) -> F32:
    """Cycles left, [n]."""
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(x))[:, 0]) * engines.CAP  # type: ignore[operator]


def times(network: Network, int8: rt.CompiledModel, sensors: F32, quick: bool) -> dict[str, float]:
    """us of the features, of both networks, and of a whole cycle from sensors to remaining life."""
    rounds, calls = (10, 500) if quick else (40, 1000)
    bank, x = engines.bank(), np.ascontiguousarray(sensors[:1])
    phi, y = np.zeros((1, bank.width), np.float32), torch.zeros(1, 1)
    example = torch.from_numpy(phi)  # shares memory: the network reads what the bank wrote
    featured = bank.bind(x, phi)
    featured()
    float32 = rt.compile(network, (example,)).bind(example, out=y)
    quantized = int8.bind(example, out=y)

    def cycle() -> None:
        featured()
        quantized()

    found = {
        f"{name}_us": per_call_us(call, calls, rounds)[0]
        for name, call in (("features", featured), ("float32", float32), ("int8", quantized))
    }
    latency = rt.measure(cycle, (), budget=rt.Budget(p99_us=50), samples=5_000 if quick else 50_000)
    return found | {"cycle_p50_us": latency.p50_us, "p99_us": latency.p99_us}


def work(args: argparse.Namespace) -> Outcome:
    fleet = engines.read(data.folder(args.data, "cmapss_fd001", engines.FILES, engines.SOURCE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return judged(fleet, args.quick, args.device)
    finally:
        torch.set_num_threads(threads)


def cells(found: Any) -> tuple[str, ...]:
    """RMSE of float32, int8 and the chosen plan, then scores."""
    return tuple(f"{found[i]:.2f}" for i in (0, 1, 4)) + tuple(f"{found[i]:.0f}" for i in (2, 3))


def judged(fleet: engines.Fleet, quick: bool, device: str) -> Outcome:
    x, y = samples(fleet.train)
    last = np.stack([engines.features(engine)[-1] for engine in fleet.test])
    example, batches = (torch.from_numpy(last[:1]),), calibration(x)
    seeds = range(2 if quick else 4)
    plan = chosen.choose(fleet.train, epochs=10 if quick else 20)
    rows = [("network", "RMSE float32", "RMSE int8", "RMSE fit_budget", "PHM score", "PHM score int8")]
    found = []
    for seed in seeds:
        network = train(x, y, seed, epochs=20 if quick else EPOCHS)
        int8 = rt.compile(network, example, "w8a8", calibration=batches)
        fitted = network if plan.scheme is None else rt.compile(network, example, plan.scheme, calibration=batches)
        p, q, r = predictions(network, last), predictions(int8, last), predictions(fitted, last)
        found.append(
            (
                engines.rmse(p, fleet.remaining), engines.rmse(q, fleet.remaining),
                engines.phm_score(p, fleet.remaining), engines.phm_score(q, fleet.remaining),
                engines.rmse(r, fleet.remaining),
            )
        )  # fmt: skip
        rows.append((f"seed {seed}", *cells(found[-1])))
    mean = np.mean(found, axis=0)
    rows.append(("mean", *cells(mean)))
    other = shifted.run(fleet.train, epochs=10 if quick else 20)
    took = times(network, int8, fleet.test[0], quick)
    metrics = {
        "rmse_mean": float(mean[0]), "rmse_seeds": [f[0] for f in found], "rmse_int8_mean": float(mean[1]),
        "phm_score": float(mean[2]), "phm_score_max": max(f[2] for f in found), "phm_score_int8": float(mean[3]),
        "rmse_shifted_clean": other.clean, "rmse_shifted_before": other.rmse[0], "rmse_shifted_after": other.rmse[-1],
        "rmse_chosen_mean": float(mean[4]), "chosen": plan.name, "chosen_us": plan.us, "chosen_drop": plan.drop,
        "refused_drop": plan.refused, "search_s": plan.seconds, **took,
    }  # fmt: skip
    limits = [
        Limit("RMSE, mean of seeds, cycles", metrics["rmse_mean"], 10.2),
        Limit("PHM score, worst seed", metrics["phm_score_max"], 160),
        Limit("RMSE that int8 adds", metrics["rmse_int8_mean"] - metrics["rmse_mean"], 0.15),
        Limit("plans found that keep the drop and the budget", int(plan.scheme is not None), 1, True),
        Limit("RMSE that the chosen plan adds", float(mean[4] - mean[0]), chosen.MAX_DROP),
        Limit("RMSE on the other fleet after 20 engines", other.rmse[-1], 22),
        Limit("RMSE there over the network's own", other.rmse[-1] / other.rmse[0], 0.5),
        Limit("p99 of a cycle, us", took["p99_us"], 50),
    ]
    notes = [
        "100 test engines, truth capped at 125 cycles.",
        f"us a call, smallest mean of rounds: features {took['features_us']:.2f}, float32 {took['float32_us']:.2f}, "
        f"int8 {took['int8_us']:.2f}; whole cycle p50 {took['cycle_p50_us']:.2f}, p99 {took['p99_us']:.2f}.",
        f"rt.fit_budget, judged by engines left out of training: {plan.reason}.",
        f"Other fleet, sensors off by {shifted.OFF} deviations: RMSE {other.rmse[0]:.1f} before, {other.rmse[1]:.1f} after "
        f"the labels of 1 engine, {other.rmse[-1]:.1f} after {shifted.LEARNED}; {other.clean:.1f} with clean sensors.",
    ]
    on_card, said = on_device(device, network, example[0], torch.from_numpy(x[:1024]), "an engine")
    metrics |= on_card
    notes += said
    return Outcome(
        "remaining_life",
        "Remaining life of turbofans",
        "86 streaming features of 14 sensors and a network of 86-64-32-1, in float32 and int8, on NASA's C-MAPSS FD001. A head "
        "on the network's features then learns a fleet with other sensors.",
        rows,
        metrics,
        limits,
        notes,
        [_plots(fleet, network, int8, last, other)],
    )


def _plots(fleet: engines.Fleet, network: Network, int8: object, last: F32, other: shifted.Shifted) -> str:
    order = np.argsort(fleet.remaining, kind="stable")
    place = np.arange(len(order))
    longest = max(fleet.test, key=len)
    course = predictions(int8, engines.features(longest))
    return chart_section(
        "What is predicted, and what is learned",
        [
            Chart(
                "test engines by their true remaining life",
                [
                    Curve("truth, capped", place, np.minimum(fleet.remaining, engines.CAP)[order], shade=7),
                    Curve("float32", place, predictions(network, last)[order], dots=True, shade=0),
                    Curve("int8", place, predictions(int8, last)[order], dots=True, shade=1),
                ],
                x_title="test engines in order of their true remaining life",
                y_title="cycles left",
                from_zero=True,
                height=320,
            ),
            Chart(
                "one engine, flight by flight",
                [Curve("predicted, int8", np.arange(len(course)), course)],
                x_title=f"flights of the test engine with the longest record ({len(course)})",
                y_title="cycles left",
                from_zero=True,
            ),
            Chart(
                "another fleet",
                [Curve("served", np.arange(len(other.rmse)), other.rmse)],
                limits={"clean sensors": other.clean},
                x_title="engines whose labels came",
                y_title="RMSE of held-out engines, cycles",
                from_zero=True,
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main("remaining_life", __doc__ or "", work, with_data=True))
