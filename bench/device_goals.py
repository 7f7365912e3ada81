"""What the figures of `python -m bench.device` are held against: the goals of the project for an H100, row by row.

Times are those of the host, from what it writes to what it can read, at the 99th percentile of at least 1e5 calls; `device_us` is
the time of the card for one replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """row, field: of the results. at_most: of it, first and where it can end. Or over: another row of which it takes at most this
    part, for speed-ups."""

    row: str
    field: str
    at_most: tuple[float, ...] = ()
    over: str = ""
    part: float = 1.0

    def __str__(self) -> str:
        if self.over:
            return f"{1 / self.part:.3g} x as fast as {self.over.rpartition(', ')[2]}"
        return f"{self.field} " + ", then ".join(f"{value:g}" for value in self.at_most)

    def met(self, rows: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """None where a row was not measured."""
        value = rows.get(self.row, {}).get(self.field)
        limit = self.at_most[0] if self.at_most else rows.get(self.over, {}).get(self.field)
        return None if value is None or limit is None else bool(value <= limit * self.part)


def _resident(name: str, *at_most: float, moment: str = "") -> Goal:
    return Goal(f"{name}{moment}, rtaccel w8a8 persistent", "p99_us", at_most)


def _faster(name: str, ours: str, dense: str, times: float) -> Goal:
    return Goal(f"{name}, {ours}", "device_us", over=f"{name}, {dense}", part=1 / times)


FP16, SPARSE_FP16 = "torch CUDA graph fp16", "torch dense fp16"
GOALS: tuple[Goal, ...] = (
    Goal("null model, persistent", "p99_us", (3.0,)),
    _resident("LSTM_A 2x100", 6.0, 4.6, moment=", one moment"),
    _resident("LSTM_B 3x200", 10.0, 6.9, moment=", one moment"),
    _resident("LSTM_C 4x1000", 25.0, 15.0, moment=", one moment"),
    _resident("mlp 256-384-384-128", 5.0),
    _resident("mlp 640-128-8-128-640", 6.0),
    _resident("TCN 3x128 k8", 7.0, moment=", one moment"),
    Goal("linear 1x1024x1024, rtaccel w4a16 graph", "device_us", (2.5,)),
    _faster("linear 1x4096x4096", "rtaccel w4a16 graph", FP16, 2.3),
    _faster("linear 16x4096x4096", "rtaccel w4a16 graph", FP16, 1.7),
    _faster("linear 64x4096x4096", "rtaccel w4a16 graph", FP16, 1.0),
    _faster("sparse 1x4096x4096 unstructured 50%", "rtaccel w8a8", SPARSE_FP16, 1.3),
    _faster("sparse 1x4096x4096 unstructured 90%", "rtaccel w8a8", SPARSE_FP16, 3.0),
    _faster("sparse 16x4096x4096 64x64 blocks 90%", "rtaccel w8a8", SPARSE_FP16, 2.0),
    _faster("sparse 1x4096x4096 2:4", "rtaccel w8a8", SPARSE_FP16, 1.0),
    _faster("sparse 16x4096x4096 2:4", "rtaccel w8a8", SPARSE_FP16, 1.0),
    Goal("one model of 8, all called at once", "p99_us", over="one model of eight, alone", part=1.1),
)
SPREAD = 1.3
"""p99.9 / p50 at most, of every row that is persistent."""

REPLAY_US = 10.0
"""What the host may see of a graph's replay beyond the time of the card."""


def judged(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(row, goal, "met", "missed" or "not measured"), every goal once."""
    by_name = {str(row["name"]): row for row in rows}
    said = {True: "met", False: "missed", None: "not measured"}
    found = [(goal.row, str(goal), said[goal.met(by_name)]) for goal in GOALS]
    for name, row in by_name.items():
        if name.endswith("persistent") and row.get("p999_us"):
            found.append((name, f"p99.9 / p50 {SPREAD:g}", said[row["p999_us"] <= SPREAD * row["p50_us"]]))
        if ", rtaccel " in name and name.endswith(" graph") and row.get("device_us") and row.get("p99_us"):
            found.append(
                (name, f"p99 {REPLAY_US:g} us over the card", said[row["p99_us"] <= row["device_us"] + REPLAY_US])
            )
    return found
