"""The whole run without a card: every row of the table planned as it is, and measured by a stand-in that takes its estimate, all
times divided by one number. Order, limits, files, goals and the page are the real ones; the figures are not, and say so.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bench.device.row import Row

HERE = "bench.device.rehearsal"
BUILD_S = 12.0
"""What building the kernels of one row takes, about."""


def rows(planned: Sequence[Row], factor: float) -> list[Row]:
    """Stand-ins for the rows of the table."""
    return [_row(row.faster(factor), factor) for row in planned]


def _row(row: Row, factor: float) -> Row:
    made = replace(
        row, measure=f"{HERE}:measure", memory_mib=0,
        arguments={"names": row.names, "check": row.check, "sleep_s": row.estimate_s},
    )  # fmt: skip
    if row.prepare:
        ahead = {"name": f"{row.prepare} {sorted(row.prepare_arguments.items())}", "sleep_s": BUILD_S / factor}
        made = replace(made, prepare=f"{HERE}:build", prepare_arguments=ahead)
    return made


def build(name: str, sleep_s: float) -> dict[str, Any]:
    time.sleep(sleep_s)
    return {"passed": True, "kernels": 1, "built": 1, "rehearsal": True}


def measure(names: Sequence[str], check: bool, sleep_s: float) -> Iterator[dict[str, Any]]:
    """After the time that the row should take: made-up numbers that depend on the name alone."""
    for name in names:
        time.sleep(sleep_s / len(names))
        yield {"name": name, "rehearsal": True, **({"passed": True} if check else made_up(name))}


def made_up(name: str) -> dict[str, float]:
    us = 1 + zlib.crc32(name.encode()) % 1000 / 100
    return {"p50_us": us, "p99_us": 1.1 * us, "p999_us": 1.2 * us, "max_us": 2 * us, "device_us": us / 2, "calls": 0}
