"""The charts as one PNG, for places that show pictures alone. Drawn by matplotlib (extra `report`)."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable
from rtaccel.core.process import whole_file
from rtaccel.measure.budget import TIME_KEYS
from rtaccel.measure.machine.environment import load_text
from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.svg import duration
from rtaccel.measure.result import Latency, check_results
from rtaccel.measure.stages import ModuleTime, StageProfile, by_module
from rtaccel.measure.verdict import overall

COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#c98500", "#4a3aa7", "#d9548c", "#008300", "#7b7f87")

LIMIT = "#b42424"

DARK: dict[Any, Any] = {
    "figure.facecolor": "#111214", "axes.facecolor": "#1a1b1e", "savefig.facecolor": "#111214", "text.color": "#eceded",
    "axes.labelcolor": "#a2a6ad", "axes.edgecolor": "#2f3136", "xtick.color": "#a2a6ad", "ytick.color": "#a2a6ad",
    "grid.color": "#26282c",
}  # fmt: skip

MAX_STAGES = 24


def write_png(
    path: str | PathLike[str],
    results: Sequence[Latency],
    *,
    title: str,
    stages: StageProfile | None = None,
    dark: bool = False,
) -> Path:
    """Histograms, latency against percentile and, where given, the time of each stage; 1800 pixels wide.

    Raises FormatError when there are no results and where the path cannot be written, BackendUnavailable without matplotlib.
    """
    check_results(results, title)
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "report", "a PNG", "matplotlib, which is not installed", "pip install 'rtaccel[report]'"
        ) from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = whole_file.target_of("report", path)
    modules = _shown(by_module(stages)) if stages else []
    heights = [3.6, 3.8] + ([0.9 + 0.24 * len(modules)] if modules else [])
    with matplotlib.rc_context(DARK if dark else {}):
        page = Figure(figsize=(12, sum(heights) + 0.7), layout="constrained")
        FigureCanvasAgg(page)  # no window, whatever backend the process uses
        page.suptitle(title, fontsize=15, fontweight="bold")
        # Each chart in a figure of its own: long names of one do not narrow the others.
        parts: Any = page.subfigures(len(heights), 1, height_ratios=heights)
        for part in parts:
            part.set_facecolor("none")
        said = _verdict(results)
        if said:
            parts[0].suptitle(said, fontsize=11, x=0.01, ha="left")
        _histograms(parts[0].subplots(), results)
        _tails(parts[1].subplots(), results)
        if modules:
            _stages(parts[2].subplots(), modules)
        drawn = io.BytesIO()
        page.savefig(drawn, dpi=150, format="png")
    return whole_file.write("report", target, drawn.getvalue())


def _verdict(results: Sequence[Latency]) -> str:
    """With the load of the machine beside it; empty without a budget."""
    lines = [line for r in results for line in r.lines]
    load = load_text(results[0].environment)
    return f"{overall(lines)}{f' ({load})' if load else ''}" if lines else ""


def _limits(results: Sequence[Latency]) -> list[tuple[float, str]]:
    """Each limit once, with its words, in ascending order."""
    found = {
        (limit, f"{key.removesuffix('_us').replace('p999', 'p99.9')} ≤ {duration(limit)}")
        for r in results
        if r.budget
        for key, limit in r.budget.as_dict().items()
        if key in TIME_KEYS
    }
    return sorted(found)


def _histograms(axis: Any, results: Sequence[Latency]) -> None:
    low = max(min(r.min_us for r in results), 1e-3)
    edges = np.geomspace(low / 1.1, max(max(r.max_us for r in results), 2 * low) * 1.1, 240)
    for i, r in enumerate(results):
        counts, _ = np.histogram(r.samples_us, bins=edges)
        axis.stairs(counts / max(r.n, 1), edges, fill=True, alpha=0.6, color=COLOURS[i % len(COLOURS)], label=_name(r))
    axis.set(xscale="log", yscale="log", xlabel="latency of one call", ylabel="share of calls")
    groups: list[tuple[float, str]] = []
    span = np.log(edges[-1] / edges[0])
    for limit, words in _limits(results):
        axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
        if groups and np.log(limit / groups[-1][0]) < 0.012 * span * len(groups[-1][1]):
            groups[-1] = (groups[-1][0], f"{groups[-1][1]} · {words}")  # words that would touch are one sentence
        else:
            groups.append((limit, words))
    for limit, words in groups:
        late = np.log(limit / edges[0]) > 0.7 * span
        axis.text(
            limit, 1.01, words, color=LIMIT, fontsize=9, ha="right" if late else "left", va="bottom",
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip
    _in_words(axis.xaxis)
    axis.grid(alpha=0.5)
    _legend(axis)


def _tails(axis: Any, results: Sequence[Latency]) -> None:
    for i, r in enumerate(results):
        ordered = np.sort(r.samples_us)[::-1]
        ranks = np.unique(np.geomspace(1, r.n, min(r.n, 2000)).astype(np.int64))
        axis.plot(ranks / r.n, ordered[ranks - 1], color=COLOURS[i % len(COLOURS)], label=_name(r), linewidth=1.6)
    for limit, _ in _limits(results):
        axis.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.0)
    shown = [t for t in (0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001) if t * max(r.n for r in results) >= 1]
    axis.set(xscale="log", yscale="log", xlabel="percentile of calls", ylabel="latency", xlim=(0.6, min(shown) / 2))
    axis.set_xticks(shown, [f"{100 * (1 - t):.6g} %" for t in shown])
    axis.minorticks_off()
    _in_words(axis.yaxis)
    axis.grid(alpha=0.5)
    _legend(axis)


def _in_words(axis: Any) -> None:
    """Ticks as 10 µs and 1 ms, and not as powers."""
    axis.set_major_formatter(lambda us, _: duration(us))
    axis.set_minor_formatter(lambda us, _: "")


def _legend(axis: Any) -> None:
    """Beside the chart, where it covers nothing."""
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _name(result: Latency) -> str:
    return textwrap.fill(result.name, 30)


def _shown(modules: Sequence[ModuleTime]) -> list[ModuleTime]:
    slowest = sorted(modules, key=lambda m: -m.us)[:MAX_STAGES]
    return [module for module in modules if any(module is other for other in slowest)]


def _end(name: str, most: int = 48) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _stages(axis: Any, modules: Sequence[ModuleTime]) -> None:
    places = np.arange(len(modules))
    axis.barh(places, [m.us for m in modules], color=COLOURS[0], alpha=0.85)
    axis.set_yticks(places, [f"{_end(m.name)}  ({', '.join(m.kernels)[:32]})" for m in modules], fontsize=8)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set(xlabel="median time of a module, µs")
    axis.xaxis.set_major_formatter(lambda us, _: figure(us))
    axis.grid(axis="x", alpha=0.5)
