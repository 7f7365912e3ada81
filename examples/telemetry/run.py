"""Telemetry of spacecraft: a streamed forecaster, an autoencoder, thresholds that follow, drift, many channels in one call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared import data
from examples._shared.device import on_device
from examples._shared.outcome import Limit, Missing, Outcome, main
from examples.telemetry import alarms, channels, models, together
from examples.telemetry.channels import F64, Channel
from rtaccel.cli._demo.auroc import auroc
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

STREAMS = 64
LEAST = {"E-8": 0.75, "C-1": 0.8, "M-6": 0.95}
"""AUROC of the forecaster. P-1 has no limit: see README.md."""


def smoothed(errors: F64) -> F64:
    return channels.smoothed(errors[:, None])[:, 0]


def scores(found: Sequence[Channel], quick: bool) -> tuple[dict[str, list[F64]], dict[str, list[F64]], tuple[Any, ...]]:
    """Smoothed errors of each detector on test, those of both forecasters and of the autoencoder on training, and the models."""
    forecaster = models.forecaster(found, epochs=20 if quick else 40)
    autoencoder = models.autoencoder(found, epochs=10 if quick else 20)
    transformer = models.transformer(found, epochs=2 if quick else 4)
    example = torch.from_numpy(np.stack([c.test[0] for c in found]))
    live = rt.stream(forecaster, example)
    int8 = rt.stream(forecaster, example, "w8a8", calibration=together.calibration(found))
    tests, trains = [[getattr(c, part) for c in found] for part in ("test", "train")]
    fast = rt.compile(autoencoder, (models.windows(tests[0][:1, 0]),))

    def windowed(model: Any, series: Sequence[channels.F32]) -> list[F64]:
        return [smoothed(together.reconstructions(model, models.windows(one[:, 0]))) for one in series]

    on_test = {
        "forecaster": [smoothed(e) for e in together.forecasts(live, tests)],
        "forecaster, W8A8": [smoothed(e) for e in together.forecasts(int8, tests)],
        "autoencoder": windowed(fast, tests),
        "transformer": windowed(transformer, tests),
    }
    on_train = {
        "forecaster": [smoothed(e) for e in together.forecasts(live, trains)],
        "autoencoder": windowed(fast, trains),
    }
    return on_test, on_train, (forecaster, autoencoder, transformer)


def work(args: argparse.Namespace) -> Outcome:
    torch.set_num_threads(1)
    found = channels.read(data.folder(args.data, "smap_msl", (channels.LABELS,), channels.SOURCE))
    if not found:
        raise Missing(f"no channel that {channels.LABELS} has: {channels.SOURCE}, then pass --data FOLDER.")
    on_test, on_train, (forecaster, autoencoder, transformer) = scores(found, args.quick)
    area = {name: [auroc(one, c.truth) for one, c in zip(each, found)] for name, each in on_test.items()}
    told = {
        name: [alarms.events(a, b, c) for a, b, c in zip(on_train[name], on_test[name], found)] for name in on_train
    }
    drifted = alarms.drifts(on_test["forecaster"])
    rows = [
        (
            "channel",
            *(f"AUROC {name}" for name in area),
            "found by forecaster",
            "false alarms",
            "alarm outside",
            "drifts",
        )
    ]
    for i, channel in enumerate(found):
        one = told["forecaster"][i]
        rows.append(
            (
                channel.name,
                *(f"{each[i]:.3f}" for each in area.values()),
                f"{one.found} of {one.labeled}",
                str(one.false_alarms),
                f"{one.outside:.1%}",
                "no river" if drifted is None else str(len(drifted[i])),
            )
        )
    many = together.together(forecaster, autoencoder, transformer, found, STREAMS, args.quick)
    names = [c.name for c in found]
    metrics: dict[str, Any] = {
        **{f"auroc_{_key(name)}": dict(zip(names, each)) for name, each in area.items()},
        **{f"found_{name}": {c.name: e.found for c, e in zip(found, each)} for name, each in told.items()},
        **{
            f"false_alarms_{name}": {c.name: e.false_alarms for c, e in zip(found, each)} for name, each in told.items()
        },
        **{f"outside_{name}": {c.name: e.outside for c, e in zip(found, each)} for name, each in told.items()},
        "labeled": {c.name: len(c.anomalies) for c in found},
        "drifts": None if drifted is None else {c.name: rows for c, rows in zip(found, drifted)},
        "channels_in_a_call": many.channels,
        "channel_difference": many.different,
        **{f"us_{_key(name)}": us for name, us in many.us.items()},
    }
    lost = max(a - b for a, b in zip(area["forecaster"], area["forecaster, W8A8"]))
    limits = [
        *(Limit(f"AUROC of the forecaster, {n}", a, LEAST[n], True) for n, a in zip(names, area["forecaster"]) if n in LEAST),
        Limit("AUROC lost in W8A8", lost, 0.03),
        Limit("false alarms of the forecaster, all channels", sum(e.false_alarms for e in told["forecaster"]), 2 * len(found)),
        Limit("largest difference of a channel in the call to itself alone", many.different, 1e-4),
        Limit(f"a call of {many.channels} channels, us", many.us["forecaster, rt.stream"], 5000),
    ]  # fmt: skip
    low = [n for n, a in zip(names, area["forecaster"]) if a < 0.5]
    notes = [f"One call of {many.channels} channels: " + ", ".join(f"{k} {v:.1f} us" for k, v in many.us.items()) + "."]
    if low:
        notes.append(
            f"{', '.join(low)}: below chance. The labeled ranges are easier to forecast than the rest there, and a small "
            "error is no alarm."
        )
    if drifted is None:
        notes.append("No drift alarms without river: pip install 'rtaccel[demo]'.")
    window = models.windows(found[0].test[:STREAMS, 0])
    on_card, said = on_device(args.device, autoencoder, window[:1], window, "a window by the autoencoder")
    metrics |= on_card
    notes += said
    return Outcome(
        "telemetry",
        "Telemetry of spacecraft",
        "A forecaster and an autoencoder for all channels, without labels. Each channel is judged by itself, row by row: "
        "no pooled and no point-adjusted figure.",
        rows,
        metrics,
        limits,
        notes,
        [_plots(found, on_test["forecaster"], told["forecaster"])],
    )


def _key(name: str) -> str:
    return name.lower().replace("rt.", "").replace(", ", "_").replace(" ", "_")


def _plots(found: Sequence[Channel], errors: Sequence[F64], told: Sequence[alarms.Events]) -> str:
    charts = []
    for channel, error, one in list(zip(found, errors, told))[:6]:
        x = np.arange(len(error))
        curves = [
            Curve(f"{channel.name}, smoothed error", x, error),
            Curve("threshold", x, one.level),
            Curve("alarm", x[one.alarm][::20], error[one.alarm][::20], dots=True),
        ]
        spans = [(float(a), float(b)) for a, b in channel.anomalies]
        charts.append(Chart(channel.name, curves, x_title="row", spans=spans, from_zero=True, height=220))
    return chart_section("Error of the forecaster", charts, "Labeled ranges are shaded.")


if __name__ == "__main__":
    sys.exit(main("telemetry", __doc__ or "", work, with_data=True))
