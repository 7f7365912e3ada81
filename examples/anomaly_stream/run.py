"""Anomalies in streams: the Numenta benchmark with thresholds chosen on other folders, and ten thousand streams at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples._shared import data
from examples._shared.outcome import Limit, Outcome, main
from examples.anomaly_stream import detectors, many, nab
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

WHOLE = 58
"""Files of NAB."""

SOURCE = "clone https://github.com/numenta/NAB (MIT license)"
PUBLISHED = ("ARTime", "numenta", "knncad", "skyline", "earthgeckoSkyline", "windowedGaussian")


def standard(scores: np.ndarray, series: Sequence[nab.Series]) -> float:
    return nab.standard_score(scores.tolist(), sum(len(one.windows) for one in series))


def work(args: argparse.Namespace) -> Outcome:
    if args.device != "cpu":
        raise UnsupportedProblem(
            "anomaly_stream", "--device cuda", "the CPU, where rt.online.Records computes", "Leave --device out."
        )
    folder = data.folder(args.data, "nab", ("windows.json", "labels/combined_windows.json"), SOURCE)
    series = nab.read(folder)
    whole = len(series) == WHOLE
    names = [one.name for one in series]

    scored = detectors.score_all(series, detectors.SETTINGS, detectors.records_alerts)
    chosen = scored.chosen() if whole else detectors.CHOSEN
    records = scored.by(chosen)
    defaults = scored.by({one.folder: (0.005, 800, 8000) for one in series})
    ours, ours_default = standard(records, series), standard(defaults, series)
    rows: list[tuple[str, str, str]] = [
        ("detector", "NAB standard score", "thresholds"),
        ("rt.online.Records", f"{ours:.1f}", "chosen on other folders"),
        ("rt.online.Records", f"{ours_default:.1f}", "its defaults, tuned on all of NAB"),
    ]
    limits = [Limit("NAB standard score", ours, 66.0, at_least=True)]
    metrics: dict[str, object] = {
        "nab_standard": ours, "nab_standard_default": ours_default, "files": len(series), "chosen": chosen,
    }  # fmt: skip
    each = {"Records": records.tolist()}
    if not args.quick:
        trees = detectors.score_all(series, detectors.TREE_SETTINGS, detectors.tree_alerts)
        by_trees = trees.by(trees.chosen() if whole else detectors.TREES_CHOSEN)
        theirs, each["HalfSpaceTrees"] = standard(by_trees, series), by_trees.tolist()
        rows.append(("river HalfSpaceTrees", f"{theirs:.1f}", "chosen on other folders"))
        metrics["nab_standard_half_space_trees"] = theirs
        limits.append(Limit("lead over HalfSpaceTrees", ours - theirs, 0.0, at_least=True))
    windows = sum(len(one.windows) for one in series)
    for detector, scores in nab.published(folder, names).items():
        if detector in PUBLISHED:
            theirs, each[detector] = nab.standard_score(scores, windows), scores
            rows.append((f"{detector}, published", f"{theirs:.1f}", "tuned on all of NAB"))
            metrics[f"nab_standard_published_{detector}"] = theirs
    metrics["score_of_file"] = {one.name: {k: v[i] for k, v in each.items()} for i, one in enumerate(series)}

    together = many.run(series, 10_000, 60 if args.quick else 300)
    alone_ns = many.ns_per_value(max(series, key=lambda one: len(one.values)))
    metrics |= {
        "ns_per_sample": together.call_us_p50 * 1e3 / together.streams,
        "ns_per_sample_min": together.call_us_min * 1e3 / together.streams,
        "ns_per_sample_series": alone_ns,
        "p99_us": together.call_us_p99,
        "bytes_per_stream": together.bytes_per_stream,
        "streams": together.streams,
    }
    limits += [
        Limit("bytes a stream", together.bytes_per_stream, 2048),
        Limit("streams that score otherwise than alone", together.different, 0),
        Limit("median call of 10,000 streams, us", together.call_us_p50, 1000),
    ]
    notes = [
        f"{len(series)} of NAB's {WHOLE} files. NAB rewards simple rules; published entries are tuned on all of them.",
        f"10,000 streams: {metrics['ns_per_sample_min']:.1f} ns a stream (smallest call), {metrics['ns_per_sample']:.1f} ns "
        f"(median), {together.bytes_per_stream:.0f} bytes; p99 of a call {together.call_us_p99:.0f} us.",
        f"One series in one call: {alone_ns:.0f} ns a value. {together.missing:,} missing values, scored NaN.",
    ]
    return Outcome(
        "anomaly_stream",
        "Anomalies in streams",
        "rt.online.Records scores each value from what came before it. Thresholds are chosen on the other folders of the "
        "benchmark, so no series is scored with thresholds that saw it.",
        rows,
        metrics,
        limits,
        notes,
        [_plots(series, chosen)],
        {"Score of each file": of_files(series, each)},
    )


def of_files(series: Sequence[nab.Series], each: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """The sum of NAB over each file: at most the number of its windows, which it is less if they are missed."""
    rows: list[tuple[str, ...]] = [("file", "windows", *each)]
    for i, one in enumerate(series):
        rows.append((one.name, str(len(one.windows)), *(f"{scores[i]:+.2f}" for scores in each.values())))
    return rows


def _plots(series: Sequence[nab.Series], chosen: dict[str, detectors.Setting]) -> str:
    """At most six series with windows and alerts."""
    charts = []
    for one in [s for s in series if s.windows][:6]:
        rows = detectors.records_alerts(one)(chosen[one.folder])
        spans = [(one.seconds[a], one.seconds[b]) for a, b in one.windows]
        charts.append(
            Chart(
                one.name,
                [
                    Curve(one.name, one.seconds, one.values),
                    Curve("alert", one.seconds[rows], one.values[rows], dots=True, shade=1),
                ],
                spans=spans,
                dates=True,
                height=200,
            )
        )
    return chart_section("Series, labeled windows and alerts", charts, "Windows are shaded; a dot is an alert.")


if __name__ == "__main__":
    sys.exit(main("anomaly_stream", __doc__ or "", work, with_data=True))
