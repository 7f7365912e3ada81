"""What was found, for people: text and an HTML page; for programs: JSON and a CSV of scores."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.cli._detect.find import Event, Found
from rtaccel.core.process import whole_file
from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section, page, pairs_section, table_section

MAX_LISTED = 20
"""Events that the terminal shows; the page and JSON have all."""

SAID = {
    "range": "beyond the range so far",
    "season": "unusual at this hour",
    "jump": "a jump",
}


def facts(found: Found) -> list[tuple[str, str]]:
    table = found.table
    times = "none, so there is no season" if table.time_name is None else table.time_name
    rows = [("value", table.value_name), ("time", times), ("rows", f"{len(table.values):,}")]
    if table.seconds is not None:
        rows.append(("median step", f"{figure(table.step)} s"))
        rows.append(("gaps", f"{table.gaps:,} steps longer than one and a half of it"))
    rows.append(("missing values", f"{table.missing:,}"))
    rows.append(("thresholds", ", ".join(f"{k} {v:g}" for k, v in found.thresholds.items())))
    rows.append(("alerts", f"{sum(e.alerts for e in found.events):,} rows in {len(found.events):,} events"))
    rows.append(("time of scoring", f"{found.ns_per_value:.0f} ns a value"))
    return rows


def _rows(found: Found, events: list[Event]) -> list[list[str]]:
    head = ["when", "value", "score", "why", "alerts", "row"]
    table = found.table
    return [
        head,
        *(
            [
                table.stamps[e.row], figure(float(table.values[e.row])), figure(e.score, 3), SAID[e.rule], f"{e.alerts:,}",
                f"{e.row + 2:,}",
            ]
            for e in events
        ),
    ]  # fmt: skip


def text(found: Found) -> str:
    pairs = facts(found)
    width = max(len(k) for k, _ in pairs)
    lines = [found.table.file, *(f"  {k.ljust(width)}  {v}" for k, v in pairs)]
    if found.events:
        largest = sorted(sorted(found.events, key=lambda e: -e.score)[:MAX_LISTED], key=lambda e: e.row)
        rows = _rows(found, largest)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines.append("")
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        if len(largest) < len(found.events):
            lines.append(f"the {MAX_LISTED} largest of {len(found.events):,} events; --html and --json have all")
    else:
        lines += ["", "no alert"]
    return "\n".join(lines)


def as_json(found: Found) -> dict[str, Any]:
    table = found.table
    return {
        "file": table.file,
        "value": table.value_name,
        "time": table.time_name,
        "rows": len(table.values),
        "missing": table.missing,
        "gaps": table.gaps,
        "thresholds": found.thresholds,
        "alerts": sum(e.alerts for e in found.events),
        "ns_per_value": found.ns_per_value,
        "events": [
            {
                "row": e.row + 2, "time": table.stamps[e.row], "value": float(table.values[e.row]), "score": e.score,
                "rule": e.rule, "alerts": e.alerts, "first_row": e.first + 2, "last_row": e.last + 2,
            }
            for e in found.events
        ],
    }  # fmt: skip


def html(found: Found, command: str) -> str:
    table = found.table
    dates = table.seconds is not None
    x = np.arange(len(table.values)) if table.seconds is None else table.seconds
    at = [e.row for e in found.events]
    charts = [
        Chart(
            f"{table.value_name} with its events",
            [
                Curve(table.value_name, x, table.values),
                Curve("event", x[at], table.values[at], dots=True, shade=1),
            ],
            dates=dates,
            height=300,
        ),
        Chart(
            "score over its alert level",
            [Curve("score", x, np.minimum(found.scores, 10), shade=4)],
            limits={"alert": 1.0},
            dates=dates,
            from_zero=True,
            height=180,
        ),
    ]
    summary = (
        "Each value is scored as it comes, from what came before it: how far it leaves the range so far, how unusual its level "
        "is at this half hour of the week, and how large its jump is. A score of 1 or more is an alert."
    )
    sections = [
        chart_section("Series and score", charts, "Scores are drawn up to 10. A dot is the largest score of an event."),
        table_section("Events", _rows(found, found.events)) if found.events else "",
        pairs_section("File and settings", facts(found)),
    ]
    return page(f"Anomalies in {table.file}", summary, sections, command=command)


def write_scores(found: Found, path: Path) -> None:
    """The rows of the series with score and alert, as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([found.table.time_name or "row", found.table.value_name, "score", "alert"])
    for stamp, value, score in zip(found.table.stamps, found.table.values, found.scores):
        known = not np.isnan(score)
        cells = [repr(float(value)), f"{score:.6g}", int(score >= 1)] if known else ["", "", 0]
        writer.writerow([stamp, *cells])
    whole_file.write("detect", path, text.getvalue())
