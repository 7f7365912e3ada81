"""A trigger: which jet is it? The tagger of hls4ml and a deep-sets network, quantized and pruned, in latency and throughput."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared.device import on_device
from examples._shared.outcome import Limit, Outcome, main
from examples._shared.timing import p99_us, per_call_us
from examples.trigger.jets import KINDS, Jets, simulate
from examples.trigger.networks import DeepSets, Tagger, accuracy, calibration, inputs, made, pruned, zeros
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

TRAIN, TEST = 60_000, 20_000
MANY = 1024
SPARSITIES = (0.7, 0.95)
SCHEMES = {"float32": "float32", "w8a8": "w8a8", "w4a8": rt.W4A8(rounding="gptq")}
BITS = {"pytorch": 32, "float32": 32, "w8a8": 8, "w4a8": 4}
"""Of a weight."""

PUBLISHED = [
    ("network", "bits", "accuracy there", "ns on an FPGA", "source"),
    ("MLP 16-64-32-32-5, rounded after training", "16", "76.4 %", "50", "arXiv 2103.05579"),
    ("  the same", "14", "75.8 %", "50", "the same"),
    ("  trained with fake quantization", "6", "76.2 %", "45", "the same"),
    ("  uniform, of another paper", "6", "74.8 %", "55", "arXiv 2006.10159"),
    ("  pruned", "", "74.8 %", "70", "the same"),
    ("  bits of each layer, least energy", "mixed", "72.3 %", "55", "the same"),
    ("  bits of each weight", "mixed", "76.4 %", "30", "arXiv 2405.00645"),
    ("deep sets, 8 particles", "", "64.0 %", "95", "arXiv 2402.01876"),
    ("deep sets, 16 particles", "", "69.4 %", "115", "the same"),
    ("deep sets, 32 particles", "", "75.9 %", "130", "the same"),
]  # fmt: skip
"""Their jets are not ours, and FPGAs take a new jet every cycle or few: beside, not against."""


@dataclass(frozen=True)
class Computed:
    """One network in one scheme, or by PyTorch (scheme "pytorch")."""

    name: str
    scheme: str
    zeros: float
    accuracy: float
    bytes: int
    model: Any
    network: nn.Module

    @property
    def key(self) -> str:
        return f"{self.name}_{self.scheme}".replace(" ", "_").replace(" %", "").replace("%", "")


def forms(train: Jets, test: Jets, epochs: int) -> list[Computed]:
    """MLP and deep sets, dense and pruned, in float32, int8 and by PyTorch."""
    mlp, sets = made(Tagger, train, epochs), made(DeepSets, train, epochs)
    networks = {"mlp": mlp, "deep sets": sets}
    once = mlp
    for sparsity in SPARSITIES:  # each from the one before
        once = pruned(once, train, sparsity, epochs)
        networks[f"mlp {sparsity:.0%} pruned"] = once
    found = []
    for name, network in networks.items():
        x = inputs(network, test)
        size = sum(p.numel() * p.element_size() for p in network.state_dict().values())
        if name in ("mlp", "deep sets"):
            found.append(
                Computed(name, "pytorch", zeros(network), accuracy(network, x, test.kind), size, network, network)
            )
        for scheme, given_scheme in SCHEMES.items():
            given = {} if scheme == "float32" else {"calibration": calibration(network, train)}
            fast = rt.compile(network, (x[:1].contiguous(),), given_scheme, **given)
            right = accuracy(fast, x, test.kind)
            found.append(Computed(name, scheme, zeros(network), right, fast.weight_bytes, fast, network))
    return found


def times(found: list[Computed], test: Jets, quick: bool) -> dict[str, tuple[float, float]]:
    """us of a call with one jet and with 1,024, the smallest of rounds that take turns."""
    calls: dict[str, tuple[Any, Any]] = {}
    for form in found:
        x = inputs(form.network, test)
        both = []
        for n in (1, MANY):
            given, out = x[:n].contiguous(), torch.empty(n, len(KINDS))
            eager = form.scheme == "pytorch"
            both.append((lambda m=form.model, g=given: m(g)) if eager else form.model.bind(given, out=out))
        calls[form.key] = (both[0], both[1])
    best = {key: [float("inf"), float("inf")] for key in calls}
    with torch.no_grad():
        for _ in range(10 if quick else 40):
            for key, (one, many) in calls.items():
                best[key][0] = min(best[key][0], per_call_us(one, 200, 1)[0])
                best[key][1] = min(best[key][1], per_call_us(many, 4, 1)[0])
    return {key: (a, b) for key, (a, b) in best.items()}


def work(args: argparse.Namespace) -> Outcome:
    torch.set_num_threads(1)
    train, test = simulate(TRAIN // 2 if args.quick else TRAIN, seed=0), simulate(TEST, seed=1)
    found = forms(train, test, 4 if args.quick else 8)
    us = times(found, test, args.quick)
    rows = [
        (
            "network",
            "computed by",
            "bits",
            "zeros",
            "accuracy",
            "weights B",
            "one jet us",
            f"{MANY:,} jets us",
            "million jets/s",
        )
    ]
    for form in found:
        one, many = us[form.key]
        by = "PyTorch, float32" if form.scheme == "pytorch" else form.scheme
        figures = (
            str(BITS[form.scheme]),
            f"{form.zeros:.0%}",
            f"{form.accuracy:.3f}",
            f"{form.bytes:,}",
            f"{one:.2f}",
            f"{many:.0f}",
            f"{MANY / many:.2f}",
        )
        rows.append((form.name, by, *figures))
    by_key = {form.key: form for form in found}
    mlp, sets = by_key["mlp_float32"], by_key["deep_sets_float32"]
    shuffled = test.particles[:, np.random.default_rng(0).permutation(test.particles.shape[1])]
    told, again = (np.asarray(sets.model(torch.from_numpy(x.copy()))) for x in (test.particles, shuffled))
    order = float(np.abs(told - again).max())
    test_row = inputs(mlp.network, test)[:1].contiguous()
    metrics: dict[str, Any] = {
        **{f"accuracy_{form.key}": form.accuracy for form in found},
        **{f"zeros_{form.key}": form.zeros for form in found},
        **{f"us_{key}": one for key, (one, _) in us.items()},
        **{f"million_per_s_{key}": MANY / many for key, (_, many) in us.items()},
        "p99_us": p99_us(by_key["mlp_w8a8"].model.bind(test_row, out=torch.empty(1, len(KINDS)))),
        "weights": sum(p.numel() for p in mlp.network.parameters()),
        "order_difference": order,
    }
    lost = max(f.accuracy - by_key[f.key.replace("float32", "w8a8")].accuracy for f in found if f.scheme == "float32")
    in_four = max(
        f.accuracy - by_key[f.key.replace("float32", "w4a8")].accuracy for f in found if f.scheme == "float32"
    )
    limits = [
        Limit("accuracy of the MLP", mlp.accuracy, 0.82, True),
        Limit("accuracy of the deep sets", sets.accuracy, 0.7, True),
        Limit("accuracy lost in int8, largest", lost, 0.01),
        Limit("accuracy lost in int4, rounded for its inputs, largest", in_four, 0.05),
        Limit("accuracy lost with 70 % pruned", mlp.accuracy - by_key["mlp_70_pruned_float32"].accuracy, 0.01),
        Limit("accuracy lost with 95 % pruned", mlp.accuracy - by_key["mlp_95_pruned_float32"].accuracy, 0.1),
        Limit("difference where particles change places", order, 1e-4),
        Limit("one jet by the MLP in int8, us", us["mlp_w8a8"][0], 100),
    ]  # fmt: skip
    notes = [
        "Simulated jets: accuracies compare the rows, and say nothing about data of the LHC. "
        f"The MLP has {metrics['weights']:,} weights and biases.",
        "Layers of less than 4,096 weights are computed dense, so zeros save no time here; on an FPGA each is a multiplier less.",
    ]
    x = inputs(mlp.network, test)
    on_card, said = on_device(args.device, mlp.network, x[:1], x[:MANY], "a jet by the MLP")
    metrics |= on_card
    notes += said
    return Outcome(
        "trigger",
        "Which jet is it?",
        "A trigger keeps one collision in thousands, and decides in microseconds. The tagger of hls4ml's first paper and a "
        "deep-sets network, quantized and pruned, on a CPU.",
        rows,
        metrics,
        limits,
        notes,
        [
            _plots(found, us, test),
        ],
        {"Published: on FPGAs, and on hls4ml's jets": PUBLISHED},
    )


def _plots(found: list[Computed], us: dict[str, tuple[float, float]], test: Jets) -> str:
    against = Chart(
        "accuracy and time",
        [Curve(f.name, [us[f.key][0]], [f.accuracy], dots=True) for f in found if f.scheme == "w8a8"],
        x_title="us for one jet", y_title="accuracy",
    )  # fmt: skip
    edges = np.linspace(0, 250, 51)
    masses = Chart(
        "mass",
        [
            Curve(kind, (edges[1:] + edges[:-1]) / 2, np.histogram(test.features[test.kind == k, 14], edges)[0])
            for k, kind in enumerate(KINDS)
        ],
        x_title="GeV",
        y_title="jets",
    )
    mlp = next(form for form in found if form.key == "mlp_w8a8")
    scores = np.asarray(mlp.model(inputs(mlp.network, test)))
    curves = []
    for k, kind in enumerate(KINDS):
        right = scores[:, k] - np.delete(scores, k, 1).max(1)
        level = np.quantile(right, np.linspace(0, 1, 200))
        signal = [(right[test.kind == k] >= t).mean() for t in level]
        background = [(right[test.kind != k] >= t).mean() for t in level]
        curves.append(Curve(kind, np.array(signal), np.array(background)))
    roc = Chart("efficiency", curves, x_title="efficiency", y_title="share of the others", log=True)
    return chart_section(
        "Jets",
        [masses, roc, against],
        "Masses; what is kept of the others at an efficiency, MLP in int8; accuracy over time, int8.",
    )


if __name__ == "__main__":
    sys.exit(main("trigger", __doc__ or "", work))
