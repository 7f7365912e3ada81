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
MAX_SHOWN = 1000.0
"""Of a score in the drawing: a channel that never moved in training and does so later has millions."""

BOTH = "forecaster + statistics"
LEAST = {"P-1": 0.8, "E-8": 0.8, "C-1": 0.8, "M-6": 0.95}
"""AUROC of forecaster and statistics together."""


def smoothed(errors: F64) -> F64:
    return channels.smoothed(errors[:, None])[:, 0]


def scores(found: Sequence[Channel], quick: bool) -> tuple[dict[str, list[F64]], dict[str, list[F64]], tuple[Any, ...]]:
    """Smoothed scores of each detector on test, those of some on training, and the models."""
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

    unusual = models.Unusual().eval()
    seen = [unusual.seen(c.train[:, 0]) for c in found]
    x = models.windows(tests[0][:1, 0])
    statistics = rt.compile(unusual, (x, *seen[0]))

    def distant(series: Sequence[channels.F32]) -> list[F64]:
        return [smoothed(together.distances(statistics, known, one[:, 0])) for known, one in zip(seen, series)]

    on_test = {
        "forecaster": [smoothed(e) for e in together.forecasts(live, tests)],
        "forecaster, W8A8": [smoothed(e) for e in together.forecasts(int8, tests)],
        "autoencoder": windowed(fast, tests),
        "statistics": distant(tests),
        "transformer": windowed(transformer, tests),
    }
    on_train = {
        "forecaster": [smoothed(e) for e in together.forecasts(live, trains)],
        "autoencoder": windowed(fast, trains),
        "statistics": distant(trains),
    }
    pairs = [[(on_train[k][i], on_test[k][i]) for k in ("forecaster", "statistics")] for i in range(len(found))]
    on_train[BOTH], on_test[BOTH] = (list(part) for part in zip(*(alarms.joined(*pair) for pair in pairs)))
    return on_test, on_train, (forecaster, autoencoder, transformer)


def work(args: argparse.Namespace) -> Outcome:
    torch.set_num_threads(1)
    found = channels.read(data.folder(args.data, "smap_msl", (channels.LABELS,), channels.SOURCE))
    if not found:
        raise Missing(f"no channel that {channels.LABELS} has: {channels.SOURCE}, then pass --data FOLDER.")
    on_test, on_train, (forecaster, autoencoder, transformer) = scores(found, args.quick)
    area = {name: [auroc(one, c.truth) for one, c in zip(each, found)] for name, each in on_test.items()}
    told = {
        name: [alarms.events(a, b, c, rule) for a, b, c in zip(on_train[name], on_test[name], found)]
        for name, rule in (("forecaster", alarms.OF_ERRORS), ("autoencoder", alarms.OF_ERRORS), (BOTH, alarms.OF_BOTH))
    }
    drifted = alarms.drifts(on_test["forecaster"])
    shown = [BOTH, *(name for name in area if name != BOTH)]
    rows = [("AUROC of each channel", *shown)]
    rows += [(c.name, *(f"{area[name][i]:.3f}" for name in shown)) for i, c in enumerate(found)]
    rows.append(("mean", *(f"{np.mean(area[name]):.3f}" for name in shown)))
    many = together.together(forecaster, autoencoder, transformer, found, STREAMS, args.quick)
    names = [c.name for c in found]
    metrics: dict[str, Any] = {
        **{f"auroc_{_key(name)}": dict(zip(names, each)) for name, each in area.items()},
        "auroc_mean": {_key(name): float(np.mean(each)) for name, each in area.items()},
        **{f"found_{_key(name)}": {c.name: e.found for c, e in zip(found, each)} for name, each in told.items()},
        **{
            f"false_alarms_{_key(name)}": {c.name: e.false_alarms for c, e in zip(found, each)}
            for name, each in told.items()
        },
        **{f"outside_{_key(name)}": {c.name: e.outside for c, e in zip(found, each)} for name, each in told.items()},
        "labeled": {c.name: len(c.anomalies) for c in found},
        "drifts": None if drifted is None else {c.name: rows for c, rows in zip(found, drifted)},
        "channels_in_a_call": many.channels,
        "channel_difference": many.different,
        "p99_us": many.p99_us,
        **{f"us_{_key(name)}": us for name, us in many.us.items()},
    }
    lost = max(a - b for a, b in zip(area["forecaster"], area["forecaster, W8A8"]))
    limits = [
        *(Limit(f"AUROC of {BOTH}, {n}", a, LEAST[n], True) for n, a in zip(names, area[BOTH]) if n in LEAST),
        Limit("mean AUROC over that of the transformer", float(np.mean(area[BOTH]) - np.mean(area["transformer"])), 0, True),
        Limit("AUROC lost in W8A8", lost, 0.03),
        Limit("false alarms, all channels", sum(e.false_alarms for e in told[BOTH]), 2 * len(found)),
        Limit("largest difference of a channel in the call to itself alone", many.different, 1e-4),
        Limit(f"a call of {many.channels} channels, us", many.us["forecaster, rt.stream"], 5000),
    ]  # fmt: skip
    low = [n for n, a in zip(names, area["forecaster"]) if a < 0.5]
    notes = [
        f"Alarms of {BOTH}: "
        + "; ".join(
            f"{c.name} {e.found} of {e.labeled} ranges, {e.false_alarms} false, {e.outside:.1%} of other rows"
            for c, e in zip(found, told[BOTH])
        )
        + ".",
    ]
    if drifted is not None:
        notes.append(
            "Drifts of the forecaster's error: " + ", ".join(f"{c.name} {len(d)}" for c, d in zip(found, drifted)) + "."
        )
    notes += [
        f"One call of {many.channels} channels: " + ", ".join(f"{k} {v:.1f} us" for k, v in many.us.items()) + "."
    ]
    if low:
        notes.append(
            f"{', '.join(low)}: the forecaster is below chance. The labeled ranges are easier to forecast than the rest there; "
            "the statistics see that the channel moves otherwise."
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
        "A forecaster, an autoencoder and statistics of windows, without labels. Each channel is judged by itself, row by row: "
        "no pooled and no point-adjusted figure.",
        rows,
        metrics,
        limits,
        notes,
        [_plots(found, on_test[BOTH], told[BOTH])],
    )


def _key(name: str) -> str:
    return name.lower().replace("rt.", "").replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def _plots(found: Sequence[Channel], errors: Sequence[F64], told: Sequence[alarms.Events]) -> str:
    charts = []
    for channel, error, one in list(zip(found, errors, told))[:6]:
        x = np.arange(len(error))
        curves = [
            Curve(f"{channel.name}, smoothed score", x, np.minimum(error, MAX_SHOWN)),
            Curve("threshold", x, np.minimum(one.level, MAX_SHOWN)),
            Curve("alarm", x[one.alarm][::20], np.minimum(error, MAX_SHOWN)[one.alarm][::20], dots=True),
        ]
        spans = [(float(a), float(b)) for a, b in channel.anomalies]
        charts.append(Chart(channel.name, curves, x_title="row", spans=spans, log=True, height=220))
    return chart_section(f"Score of {BOTH}", charts, f"Labeled ranges are shaded. Scores are cut at {MAX_SHOWN:,.0f}.")


if __name__ == "__main__":
    sys.exit(main("telemetry", __doc__ or "", work, with_data=True))
