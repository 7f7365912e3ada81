"""What the figures of `python -m bench.device` are held against: the goals of the project for an H100, row by row.

Times are those of the host, from what it writes to what it can read, at the 99th percentile of at least 1e5 calls; `device_us` is
the time of the card for one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Goal:
    """row, field: of the results. at_most: of it; the first is the goal, and the others are where it can end. on_the_way: looser
    numbers, which say how far a row has come. Or over: another row of which it takes at most this part, for speed-ups."""

    row: str
    field: str
    at_most: tuple[float, ...] = ()
    on_the_way: tuple[float, ...] = ()
    over: str = ""
    part: float = 1.0

    def __str__(self) -> str:
        if self.over:
            return f"{self.step(self.part)} as fast as {self.over.rpartition(', ')[2]}"
        return f"{self.field} " + ", then ".join(f"{value:g}" for value in self.at_most)

    @property
    def steps(self) -> tuple[float, ...]:
        """From the loosest to the strictest: limits, or parts of the other row."""
        return (self.part,) if self.over else tuple(sorted({*self.on_the_way, *self.at_most}, reverse=True))

    def step(self, limit: float) -> str:
        return f"{1 / limit:.3g} x" if self.over else f"{limit:g}"

    def _met(self, limit: float, rows: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """None where a row was not measured."""
        value, other = (rows.get(name, {}).get(self.field) for name in (self.row, self.over))
        if value is None or (self.over and other is None):
            return None
        return bool(value <= limit * (other if self.over else 1.0))

    def met(self, rows: Mapping[str, Mapping[str, Any]]) -> bool | None:
        return self._met(self.at_most[0] if self.at_most else self.part, rows)

    def strictest(self, rows: Mapping[str, Mapping[str, Any]]) -> str:
        """Of several steps the last, and whether it is reached."""
        return f"{self.step(self.steps[-1])}: {SAID[self._met(self.steps[-1], rows)]}" if len(self.at_most) > 1 else "-"

    def reached(self, rows: Mapping[str, Mapping[str, Any]]) -> str:
        """Each step that is."""
        return ", ".join(self.step(limit) for limit in self.steps if self._met(limit, rows)) or "-"

    def figure(self, rows: Mapping[str, Mapping[str, Any]]) -> str:
        """What was measured, in the words of the goal."""
        value, other = rows.get(self.row, {}).get(self.field), rows.get(self.over, {}).get(self.field)
        if value is None or (self.over and not other):
            return "-"
        return f"{other / value:.2f} x ({value:.2f} and {other:.2f} us)" if self.over and other else f"{value:.2f} us"


class Verdict(NamedTuple):
    """reached: all steps of the goal that are. strictest: its last step and whether that is, "-" where it has one alone. said: of
    the goal itself, PASS, FAIL or not measured."""

    row: str
    goal: str
    figure: str
    reached: str
    strictest: str
    said: str


def _persistent(name: str, *at_most: float, on_the_way: tuple[float, ...] = (), step: str = "") -> Goal:
    return Goal(f"{name}{step}, rtaccel w8a8 persistent", "p99_us", at_most, on_the_way)


def _faster(name: str, ours: str, dense: str, times: float) -> Goal:
    return Goal(f"{name} cold, {ours}", "device_us", over=f"{name} cold, {dense}", part=1 / times)


FP16, SPARSE_FP16, INT4 = "torch fp16", "torch dense fp16", "rtaccel w4a16 g128"
GOALS: tuple[Goal, ...] = (
    Goal("null model, persistent", "p99_us", (3.0, 2.5)),
    Goal("null model, persistent, GDR mapping", "p99_us", (2.5,)),
    _persistent("LSTM_A 2x100", 4.6, on_the_way=(6.0,), step=", one time step"),
    _persistent("LSTM_B 3x200", 6.9, 5.0, on_the_way=(10.0,), step=", one time step"),
    _persistent("LSTM_C 4x1000", 10.0, on_the_way=(25.0, 15.0), step=", one time step"),
    _persistent("mlp 256-384-384-128", 5.0, 4.5),
    _persistent("autoencoder 640-128x4-8-128x4-640", 5.0, 4.5),
    _persistent("mlp 640-128-8-128-640", 6.0),
    _persistent("TCN 3x128 k8", 7.0, step=", one time step"),
    Goal(f"linear 1x1024x1024, {INT4} graph", "device_us", (2.5,)),
    _faster("linear 1x4096x4096", INT4, FP16, 2.3),
    _faster("linear 16x4096x4096", INT4, FP16, 1.7),
    _faster("linear 64x4096x4096", INT4, FP16, 1.0),
    _faster("sparse 1x4096x4096 unstructured 50%", "rtaccel w8a8", SPARSE_FP16, 1.3),
    _faster("sparse 1x4096x4096 unstructured 90%", "rtaccel w8a8", SPARSE_FP16, 3.0),
    _faster("sparse 16x4096x4096 64x64 blocks 90%", "rtaccel w8a8", SPARSE_FP16, 2.0),
    _faster("sparse 1x4096x4096 2:4", "rtaccel w8a8", SPARSE_FP16, 1.0),
    _faster("sparse 16x4096x4096 2:4", "rtaccel w8a8", SPARSE_FP16, 1.0),
    Goal("one model of 8, all called at once", "p99_us", over="one model of eight, alone", part=1.1),
)
"""int4 layers in groups of 128, as the 2.3 of the literature has them, with weights that each call reads from memory."""

SPREAD = 1.3
"""p99.9 / p50 at most, of every row that is persistent."""

REPLAY_US = 10.0
"""What the host may see of a graph's replay beyond the time of the card."""

PASS, FAIL, OPEN = "PASS", "FAIL", "not measured"
SAID: Mapping[bool | None, str] = {True: PASS, False: FAIL, None: OPEN}


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Every goal once, and behind them what holds for all rows of a kind."""
    by_name = {str(row["name"]): row for row in rows}
    found = [
        Verdict(
            goal.row, str(goal), goal.figure(by_name), goal.reached(by_name), goal.strictest(by_name), SAID[goal.met(by_name)]
        )
        for goal in GOALS
    ]  # fmt: skip
    for name, row in by_name.items():
        if "persistent" in name.rpartition(", rtaccel ")[2] and row.get("p999_us") and row.get("p50_us"):
            ratio = row["p999_us"] / row["p50_us"]
            found.append(_of_all(name, f"p99.9 / p50 {SPREAD:g}", f"{ratio:.2f}", SPREAD, ratio))
        if ", rtaccel " in name and name.endswith(" graph") and row.get("device_us") and row.get("p99_us"):
            over = row["p99_us"] - row["device_us"]
            found.append(_of_all(name, f"p99 {REPLAY_US:g} us over the card", f"{over:.2f} us", REPLAY_US, over))
    return found


def _of_all(name: str, goal: str, figure: str, limit: float, value: float) -> Verdict:
    return Verdict(name, goal, figure, f"{limit:g}" if value <= limit else "-", "-", SAID[value <= limit])
