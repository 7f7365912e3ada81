"""The page of predictions, in Markdown: what was simulated, counted and left out."""

from __future__ import annotations

from typing import Any

from bench.device import launches
from bench.device import layers as single_layers
from bench.device.goals import GOALS
from bench.device.predict import gaps, queued
from bench.device.predict import rows as by_row
from bench.device.predictions import HIGH, LOW, ONE_POLL, WARPS_THAT_POLL, WAYS
from bench.device.table import rows as table_rows


def page(found: dict[str, Any], queues: dict[str, Any], launched: dict[str, Any], layered: dict[str, Any]) -> str:
    """found: by sums of delays. queues: the same by requests that wait for each other."""
    goals = {goal.row: str(goal).removeprefix("p99_us ") for goal in GOALS if goal.field == "p99_us" and goal.at_most}
    link = f"link takes {LOW.link_us} to {HIGH.link_us} us one way, L2 {LOW.l2_us} to {HIGH.l2_us} us"
    link += f", a cluster {LOW.cluster_us} to {HIGH.cluster_us} us"
    lines = [
        "# Predictions for an H100", "",
        "Written by `python -m bench.device.predictions --write`, before any card was measured. It simulates polls, hops and",
        "words, with the work in cycles that `kernels/recurrent/cuda/config.py` counts. Each cell is p50 / p99 in us at the low",
        f"and the high end of the machine. The {link}.", "`python -m bench.device` judges the goals on a card.", "",
        f"| row | blocks | {' | '.join(WAYS)} | goal, p99 |", "|---|---|" + "---|" * (len(WAYS) + 1),
    ]  # fmt: skip
    for name, row in found.items():
        cells = []
        for way in WAYS:
            if way not in row:
                cells.append("-")
                continue
            low, high = row[way]["low"], row[way]["high"]
            cells.append(f"{low[0]:.1f} / {low[1]:.1f} to {high[0]:.1f} / {high[1]:.1f}")
        lines.append(
            f"| {name} | {row.get(WARPS_THAT_POLL, row[ONE_POLL])['blocks']} | {' | '.join(cells)} | {goals.get(name, '-')} |"
        )
    lines += [
        "",
        "Streams of LSTM and GRU in CUDA C++ have four warps that poll, each with a look at all of a message, where the",
        "registers leave room. All of these networks have them, with some weights in shared memory instead. Blocks are those",
        "of that form. LSTM_B is a cluster: its blocks exchange by their shared memory, where the driver says that it has room,",
        "and else through L2. For LSTM_C, which no cluster holds, two levels would take longer than L2 alone. MLPs with warps",
        "that poll are the kernel in CUDA C++, on one multiprocessor or, where that does not hold them, a cluster. Without them",
        "they are Triton's, on up to four. Triton's kernels poll once at a time. With a mapping of the card's memory for the",
        "host all blocks of a stream poll their own L2, and x is passed on to nobody. Of a chain the first block alone polls.",
        "TCNs are Triton's, in one program. The older taps are summed before a message: who sends at once waits for them.",
        "One warp cannot have several polls in flight: [why](../explanation/gpu-kernels-design.md#one-poll-of-a-warp).",
        "Not simulated: how the system schedules the host's thread, traffic of others on the link, warps that part ways.",
        *queued.lines(queues, found), *launches.lines(launched), *single_layers.lines(layered), *gaps.lines(unpredicted()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def unpredicted() -> list[str]:
    """Rows of the table that are timed and have no prediction."""
    known = by_row.of_rows()
    return [name for row in table_rows() for name in row.names if not row.check and name not in known]
