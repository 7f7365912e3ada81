"""The charts as one PNG, for places that show pictures alone. Drawn by matplotlib (extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure.result import Latency
from rtaccel.measure.stages import StageProfile

COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#c98500", "#4a3aa7", "#d9548c", "#008300", "#7b7f87")

LIMIT = "#b42424"

DARK: dict[Any, Any] = {
    "figure.facecolor": "#111214", "axes.facecolor": "#1a1b1e", "savefig.facecolor": "#111214", "text.color": "#eceded",
    "axes.labelcolor": "#a2a6ad", "axes.edgecolor": "#2f3136", "xtick.color": "#a2a6ad", "ytick.color": "#a2a6ad",
    "grid.color": "#26282c",
}  # fmt: skip

MOST_STAGES = 24


def write_png(
    path: str | PathLike[str],
    results: Sequence[Latency],
    *,
    title: str,
    stages: StageProfile | None = None,
    dark: bool = False,
) -> Path:
    """Histograms, latency against percentile and, where given, the time of each stage; 1800 pixels wide.

    Raises FormatError when there are no results, BackendUnavailable where matplotlib is not installed.
    """
    if not results:
        raise FormatError("report", "no results", "at least one Latency", "Measure something first.")
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "report", "a PNG", "matplotlib, which is not installed", "pip install 'rtaccel[report]'"
        ) from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    charts = 3 if stages else 2
    with matplotlib.rc_context(DARK if dark else {}):
        figure = Figure(figsize=(12, 3.4 * charts + 0.4), layout="constrained")
        FigureCanvasAgg(figure)  # no window, whatever backend the process uses
        figure.suptitle(title, fontsize=15, fontweight="bold")
        axes = figure.subplots(charts, 1)
        _histograms(axes[0], results)
        _tails(axes[1], results)
        if stages:
            _stages(axes[2], stages)
        figure.savefig(target, dpi=150)
    return target


def _limits(results: Sequence[Latency]) -> dict[str, float]:
    return {
        f"{key.removesuffix('_us').replace('p999', 'p99.9')} ≤ {limit:g} µs": limit
        for r in results
        if r.budget
        for key, limit in r.budget.as_dict().items()
        if key.endswith("_us")
    }


def _histograms(axis: Any, results: Sequence[Latency]) -> None:
    low = max(min(r.min_us for r in results), 1e-3)
    edges = np.geomspace(low / 1.1, max(max(r.max_us for r in results), 2 * low) * 1.1, 240)
    for i, r in enumerate(results):
        counts, _ = np.histogram(r.samples_us, bins=edges)
        axis.stairs(counts / max(r.n, 1), edges, fill=True, alpha=0.6, color=COLOURS[i % len(COLOURS)], label=r.name)
    for label, limit in _limits(results).items():
        axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.2, label=label)
    axis.set(xscale="log", yscale="log", xlabel="latency of one call, µs", ylabel="share of calls")
    axis.grid(alpha=0.5)
    axis.legend(frameon=False, fontsize=9)


def _tails(axis: Any, results: Sequence[Latency]) -> None:
    for i, r in enumerate(results):
        ordered = np.sort(r.samples_us)[::-1]
        ranks = np.unique(np.geomspace(1, r.n, min(r.n, 2000)).astype(np.int64))
        axis.plot(ranks / r.n, ordered[ranks - 1], color=COLOURS[i % len(COLOURS)], label=r.name, linewidth=1.6)
    for limit in _limits(results).values():
        axis.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.0)
    shown = [t for t in (0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001) if t * max(r.n for r in results) >= 1]
    axis.set(xscale="log", yscale="log", xlabel="percentile of calls", ylabel="latency, µs", xlim=(0.6, min(shown) / 2))
    axis.set_xticks(shown, [f"{100 * (1 - t):.6g} %" for t in shown])
    axis.minorticks_off()
    axis.grid(alpha=0.5)
    axis.legend(frameon=False, fontsize=9)


def _stages(axis: Any, stages: StageProfile) -> None:
    slowest = sorted(stages.stages, key=lambda s: -s.us)[:MOST_STAGES]
    shown = [s for s in stages.stages if any(s is other for other in slowest)]
    places = np.arange(len(shown))
    axis.barh(places, [s.us for s in shown], color=COLOURS[0], alpha=0.85)
    axis.set_yticks(places, [f"{s.name}  ({s.kernel})" for s in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="median time of a part, µs")
    axis.grid(axis="x", alpha=0.5)
