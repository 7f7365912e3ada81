"""The outcome for people: a table in the terminal and the HTML report; and for programs: JSON."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import Any

from rtaccel.cli._demo.data import WINDOW
from rtaccel.cli._demo.verdict import REFERENCE, Outcome, proven
from rtaccel.measure.numbers import figure
from rtaccel.measure.report import bytes_text, write_report

TITLE = "Anomaly detection on Space Shuttle sensors, inside a latency budget"

SHUFFLED = (
    "The recording is Statlog (Shuttle) in its anomaly-detection form, as the river package ships it. Its publishers "
    "shuffled the readings, so a window is eight readings in published order and holds no history."
)

METHOD = (
    "Every contestant runs on one thread with one window per call. All are timed in turn, in random order, round after "
    "round, so that each meets the same noise. AUROC comes from the call that was timed, on all test windows."
)


def about(outcome: Outcome) -> str:
    """What was done, in a few sentences."""
    recording = outcome.recording
    chosen = ", ".join(f"{kernel} for {count} stages" for kernel, count in outcome.kernels.items())
    return (
        f"{recording.readings:,} readings of nine sensors, {recording.anomalies:,} of them anomalies. An autoencoder, "
        f"{'-'.join(map(str, outcome.widths))}, trained on normal readings only (last loss {outcome.loss:.3f}), judges "
        f"{len(recording.windows):,} test windows of {WINDOW} readings, {int(recording.anomalous.sum()):,} of them with an "
        f"anomaly. Compiled to int8: {chosen}."
    )


def table(outcome: Outcome) -> str:
    rows: list[tuple[str, ...]] = [
        ("one window, one thread", "p50 us", "p99 us", "p99.9 us", "max us", "speed-up", "size", "AUROC")
    ]
    for result in outcome.results:
        ratio = outcome.times_torch[result.name]
        rows.append(
            (
                result.name,
                *(_us(us) for us in (result.p50_us, result.p99_us, result.p999_us, result.max_us)),
                "1x" if result.name == REFERENCE else f"{figure(ratio.value, 3)}x",
                bytes_text(result.size_bytes),
                f"{outcome.aurocs[result.name]:.4f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]) for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, *outcome.left_out])


def headline(outcome: Outcome) -> str:
    """The first limit that is not met or, where all are, the latency."""
    found = proven(outcome)
    return next((t for t in found if not t.startswith("PASS")), found[0]).partition(": ")[2] + "."


def _us(value: float) -> str:
    return figure(value, 3)


def text(outcome: Outcome, report: Path) -> str:
    """All that the terminal shows."""
    verdict = f"verdict: {outcome.judged.verdict}"
    return "\n".join([about(outcome), "", table(outcome), "", f"Report: {report}", "", *proven(outcome), verdict])


def as_json(outcome: Outcome, report: Path, seed: int) -> dict[str, Any]:
    """JSON values only. The machine is recorded once, for all rows."""
    rows = []
    for result in outcome.results:
        row = result.to_dict()
        environment = row.pop("environment")
        ratio = outcome.times_torch[result.name]
        row["auroc"] = _number(outcome.aurocs[result.name])
        row["times_torch"] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        rows.append(row)
    recording = outcome.recording
    return {
        "verdict": outcome.judged.verdict,
        "proven": proven(outcome),
        "judged": outcome.judged.name,
        "auroc_drop": _number(outcome.auroc_drop),
        "seed": seed,
        "report": str(report),
        "network": list(outcome.widths),
        "loss": _number(outcome.loss),
        "readings": recording.readings,
        "anomalies": recording.anomalies,
        "test_windows": len(recording.windows),
        "kernels": dict(outcome.kernels),
        "left_out": list(outcome.left_out),
        "rows": rows,
        "environment": environment,
    }


def _number(value: float) -> float | None:
    """JSON has no word for a NaN: null."""
    return value if math.isfinite(value) else None


def write(outcome: Outcome, path: str | PathLike[str], command: str) -> Path:
    """Writes the HTML report and returns its path."""
    quality = {}
    for result in outcome.results:
        ratio = outcome.times_torch[result.name]
        faster = "" if result.name == REFERENCE else f"\n{figure(ratio.value, 3)}x torch's speed"
        quality[result.name] = f"AUROC {outcome.aurocs[result.name]:.4f}{faster}"
    return write_report(
        path,
        outcome.results,
        title=TITLE,
        summary=about(outcome),
        command=command,
        quality=quality,
        notes=(SHUFFLED, METHOD, *outcome.left_out),
        error_name="AUROC drop",
        headline=headline(outcome),
    )
