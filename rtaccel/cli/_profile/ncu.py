"""Nsight Compute: what kernels did. Each launch is replayed with counters, so times are those of an undisturbed card."""

from __future__ import annotations

import csv
import math
import shutil

from rtaccel.cli._profile.job import Job, no_cuda, output_of
from rtaccel.cli._profile.kernels import KernelTime, merged
from rtaccel.core.errors import FormatError

REMEDY = (
    "Install Nsight Compute (it comes with the CUDA toolkit), put ncu on the PATH, and allow this user its counters."
)

DURATION = "gpu__time_duration.sum"

COLUMNS = {
    "dram__bytes.sum": "DRAM bytes",
    "launch__registers_per_thread": "registers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM %",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory %",
}
"""Metric -> column."""

UNITS = {
    "ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9,
}  # fmt: skip
"""Factor to microseconds, or to bytes. Others count as they are."""


def unavailable() -> str | None:
    if shutil.which("ncu") is None:
        return "ncu is not on the PATH"
    return no_cuda("ncu")


def run(job: Job) -> list[KernelTime]:
    log = job.folder / "launches.csv"
    metrics = ",".join([DURATION, *COLUMNS])
    output_of(
        ["ncu", "--csv", "--profile-from-start", "off", "--metrics", metrics, "--log-file", str(log), *job.loop], "ncu"
    )
    return parse(log.read_text(encoding="utf-8", errors="replace"))


def parse(text: str) -> list[KernelTime]:
    """The CSV of the details page: a row for each launch and metric, `==PROF==` lines between. Launches of one kernel are
    one row of the result.

    Raises FormatError where there is no such table, or a kernel without a duration.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    start = next((i for i, line in enumerate(lines) if '"Metric Name"' in line), None)
    if start is None:
        said = text.strip()[-400:] or "nothing"
        raise FormatError(
            "ncu", said, "launches with metrics as CSV", "Did any kernel run, and may this user read counters?"
        )
    launches: dict[tuple[str, str], dict[str, float]] = {}
    for row in csv.DictReader(lines[start:]):
        figures = launches.setdefault((row["ID"], row["Kernel Name"]), {})
        value = _number(row["Metric Value"])
        if value is not None:
            figures[row["Metric Name"]] = value * UNITS.get(row["Metric Unit"], 1.0)
    found = []
    for (_, name), figures in launches.items():
        if DURATION not in figures:
            raise FormatError("ncu", f"{name} without {DURATION}", "its duration", "Add the metric to the run.")
        us = figures[DURATION]
        found.append(KernelTime(name, 1, us, us, us, {c: figures[m] for m, c in COLUMNS.items() if m in figures}))
    return merged(found)


def _number(text: str) -> float | None:
    """A figure with thousands marked by commas; None for n/a and nan."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
