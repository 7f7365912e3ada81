"""What is predicted of each row of the table, from the files that `python -m bench.device.predictions --write` left.

A prediction of another name is of something that is not built, or not taken, and its name says so. It imports neither torch nor
the library, so that the page of a run can have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "results"
POLLED, QUEUES, LAUNCHES, LAYERS = (
    RESULTS / f"predictions-{what}h100.json" for what in ("", "queues-", "launches-", "layers-")
)  # fmt: skip
P99 = 1
"""Of the quantiles that a simulation keeps."""


NOT_THERE = ("(not taken)", "(not built)")
"""At the end of what is predicted of no row."""


@dataclass(frozen=True)
class Range:
    """field: of a row's results that it is about. In us, at the fast and the slow end of the machine."""

    field: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} ({'p99' if self.field == 'p99_us' else 'device'})"

    def error(self, measured: float | None) -> str:
        """By how much a measurement is beyond the nearer end: "inside" where it is not."""
        if measured is None:
            return "-"
        if self.low <= measured <= self.high:
            return "inside"
        end = self.low if measured < self.low else self.high
        return f"{100 * (measured / end - 1):+.0f} %"


ONE_POLL = (", by Triton", ", CUDA C++", ", built ahead")
WAYS = {
    "null model": {"four warps that poll": ("",), "GDR mapping": (", GDR mapping",), "one poll": ONE_POLL},
    "LSTM": {
        "four warps that poll": ("", ", by cuda_recurrent"), "one poll": (", by cuda_recurrent, one poll",),
        "GDR mapping": (", GDR mapping",),
    },
    "gru": {"four warps that poll": ("",)},
    "one model of": {"four warps that poll": ("",)},
    "TCN": {"one poll": ("",)},
    "": {"four warps that poll": ("", ", by cuda_chain"), "one poll": (", by triton_persistent",)},
}  # fmt: skip
"""By how a name begins: a way to poll, and how a row that has it ends. Other ways are of no kernel that there is."""


def _polled(found: Mapping[str, Any]) -> Iterator[tuple[str, Range]]:
    for name, ways in found.items():
        of = next(of for start, of in WAYS.items() if name.startswith(start))
        if " w4a8 " in name or ", by " in name or name.endswith(NOT_THERE):  # of these one form alone
            of = {"four warps that poll": ("",)}
        for way in of.keys() & ways.keys():
            for end in of[way]:
                yield name + end, Range("p99_us", ways[way]["low"][P99], ways[way]["high"][P99])


def _by_torch(title: str) -> str:
    """The row of torch's half precision beside one of ours."""
    before, _, scheme = title.partition(", rtaccel ")
    if before.startswith("sparse"):
        return f"{before}, torch dense fp16"
    return f"{before} warm, torch fp16" if scheme.endswith(" graph") else f"{before}, torch fp16"


def of_rows() -> dict[str, Range]:
    """By name; empty where the files are not there. What was simulated with queues counts before sums of delays."""
    if not all(path.exists() for path in (POLLED, QUEUES, LAUNCHES, LAYERS)):
        return {}
    made = dict(_polled(json.loads(POLLED.read_text()))) | dict(_polled(json.loads(QUEUES.read_text())))
    for path in (LAUNCHES, LAYERS):
        for name, row in json.loads(path.read_text()).items():
            made[name] = Range("device_us", row["low"], row["high"])
            if "torch" in row and not name.endswith(NOT_THERE):
                made[_by_torch(name)] = Range("device_us", *row["torch"])
    return made
