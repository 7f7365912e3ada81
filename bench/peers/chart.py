"""One picture of the comparison: for each network and error class, how many times as fast as the best peer we are."""

from __future__ import annotations

from pathlib import Path

from bench.peers.report import Found, us
from bench.peers.results import CLASSES, distinct, duels

COLOURS = {"exact": "#4C8DD9", "int8": "#E08A2E", "int4": "#3FA66B"}
"""Readable on white and on a dark page alike; so is the grey of the text."""
GREY = "#808890"
SHORTEST = 0.25
"""Bars of ratios below it end at the edge of the picture; the number beside them says how far they would go."""


def draw(found: Found, path: Path) -> None:
    """A horizontal bar per network and class on a logarithmic axis; 1x is the best peer. Transparent, SVG by its name.

    A class in which the same two win as in the one above has no bar of its own.
    """
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "rtaccel", "font.family": "sans-serif", "font.size": 10}
    )
    names = list(found)
    fig, ax = plt.subplots(figsize=(9, 1.2 + 0.52 * len(names)))
    height = 0.26
    for index, name in enumerate(names):
        shown = [duel for duel in distinct(duels(found[name])) if duel.ratio is not None]
        for slot, duel in enumerate(shown):
            assert duel.ratio is not None and duel.peer is not None and duel.ours is not None
            y = index + (slot - (len(shown) - 1) / 2) * height
            ax.barh(y, duel.ratio - 1, height * 0.9, left=1, color=COLOURS[duel.limit])
            ax.annotate(
                f"{duel.ratio:.2f}x: {us(duel.peer.best_us)} us {duel.peer.title}, {us(duel.ours.best_us)} us here",
                (max(duel.ratio, 1), y), (4, 0), textcoords="offset points", va="center", fontsize=7.5, color=GREY,
            )  # fmt: skip
    ratios = [d.ratio for rows in found.values() for d in duels(rows) if d.ratio]
    ax.set_xscale("log")
    low, high = max(min([*ratios, 0.9]), SHORTEST), max([*ratios, 2.0])
    ax.set_xlim(low * 0.9, high * 4)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10) if ax.get_xlim()[0] <= t <= high * 1.2]
    ax.set_xticks(ticks, [f"{t:g}x" for t in ticks], minor=False)
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("time of the fastest peer over time of the fastest form of rtaccel, one interleaved run", color=GREY)
    ax.tick_params(colors=GREY, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
    labels = [f"{'float32' if c == 'exact' else c} (error <= {limit * 100:g} %)" for c, limit in CLASSES.items()]
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[c]) for c in CLASSES]
    legend = ax.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_color(GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(fig)
