"""The page of a run, in Markdown, from its rows: goals, every figure, what was checked, what was not measured and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.device import machine
from bench.device.goals import FAIL, OPEN, PASS, judged
from bench.device.predict.rows import Range, of_rows
from bench.device.row import CRASH, ERROR, FAILED, HANG, LEFT_OUT, MEASURED, MEMORY, NOT_RUN, PASSED, STICKY

BROKEN = (ERROR, HANG, CRASH, STICKY, MEMORY, FAILED)
FIGURES = (
    "Times in microseconds. Device: one call of many in a CUDA graph, by the card's own clock, with warm weights (in its cache "
    "as far as they fit) where the row does not say cold (on copies that no cache holds)."
)
REHEARSAL = "This is a rehearsal: no figure on this page was measured, and none says anything about a card."


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def failures(found: Mapping[str, Any]) -> list[str]:
    """Names of checks that ran and did not pass. What could not be measured is no failure, nor is a check that had no time."""
    return [row["name"] for row in found["rows"] if row.get("check") and row["outcome"] in BROKEN]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    def cells(words: Sequence[str]) -> str:
        return "| " + " | ".join(word.replace("|", "\\|").replace("\n", " ") for word in words) + " |"

    return [cells(head), "|" + "---|" * len(head), *map(cells, lines), ""] if lines else []


def render(found: Mapping[str, Any]) -> str:
    run, rows = found["run"], found["rows"]
    lines = [f"# {run.get('card', 'no card')}, {run.get('date', '?')}", ""]
    if run.get("rehearsal"):
        lines += [f"**{REHEARSAL}**", ""]
    predicted = of_rows()
    lines += summary(found, predicted)
    said = "rehearsed: {}" if run.get("rehearsal") else "{}"
    verdicts = [
        [*goal, end if end == "-" else said.format(end), said.format(verdict)] for *goal, end, verdict in judged(rows)
    ]
    lines += ["## Goals", "", *table(("row", "goal", "figure", "reached", "strictest", ""), verdicts)]
    lines += ["## Figures", "", FIGURES, ""]
    lines += table(
        ("", "p50", "p99", "p99.9", "p99.9 / p50", "device", "SM MHz", "predicted", "error of it"),
        [[*_figures(r), *_beside(r, predicted, said)] for r in rows if r["outcome"] == MEASURED],
    )
    checked = [r for r in rows if r.get("check")]
    if checked:
        lines += [
            "## Checks",
            "",
            *table(("check", "outcome", "passed", "failed", "skipped", ""), [_check(r) for r in checked]),
        ]
    lost = [r for r in rows if r["outcome"] not in (MEASURED, PASSED, LEFT_OUT) and not r.get("check")]
    if lost:
        lines += ["## Not measured", "", *table(("row", "outcome", "why"), [_lost(r) for r in lost])]
    lines += _left_out(
        [r for r in rows if r["outcome"] == LEFT_OUT and not r.get("check")], "Left out, as the time was over"
    )
    broken = [p for p in found["prepared"] if p["outcome"] not in (PASSED, LEFT_OUT)]
    if broken:
        lines += [
            "## Kernels that could not be built ahead",
            "",
            *table(("for", "outcome", "why"), [_lost(p) for p in broken]),
        ]
    lines += _left_out(
        [p for p in found["prepared"] if p["outcome"] == LEFT_OUT], "Not built ahead, as there was no time"
    )
    lines += ["## Machine", "", *table(("", ""), _machine(run))]
    return "\n".join(lines).rstrip() + "\n"


def _beside(row: Mapping[str, Any], predicted: Mapping[str, Range], said: str) -> list[str]:
    """What was predicted of a row, and how far the measurement is beyond it."""
    of = predicted.get(row["name"])
    if of is None:
        return ["-", "-"]
    error = of.error(row.get(of.field))
    return [str(of), error if error == "-" else said.format(error)]


def summary(found: Mapping[str, Any], predicted: Mapping[str, Range]) -> list[str]:
    """What the run came to, in sentences."""
    run, rows, end = found["run"], found["rows"], found["end"]
    verdicts = judged(rows)
    title = "Goals, rehearsed" if run.get("rehearsal") else "Goals"
    counted = Counter(verdict.said for verdict in verdicts)
    ends = [verdict.strictest.endswith(PASS) for verdict in verdicts if verdict.strictest != "-"]
    said = [f"{title}: " + ", ".join(f"{counted[word]} {word}" for word in (PASS, FAIL, OPEN))]
    said[0] += f"; the strictest step of {sum(ends)} of {len(ends)} that have several."
    counts = Counter(row["outcome"] for row in rows)
    of_each = [f"{counts[o]} {o}" for o in (MEASURED, PASSED, *BROKEN, LEFT_OUT, NOT_RUN) if counts[o]]
    said.append("Rows: " + (", ".join(of_each) or "none") + ".")
    errors = [of.error(row.get(of.field)) for row in rows if (of := predicted.get(row["name"])) is not None]
    judged_errors = [error for error in errors if error != "-"]
    if judged_errors and not run.get("rehearsal"):
        said.append(
            f"Of {len(judged_errors)} rows that were predicted {judged_errors.count('inside')} are inside their range."
        )
    if end is None:
        said.append("The run was cut short: it has no end, and rows after the last one are missing.")
    else:
        said.append(f"The run {end['how']} after {end['at_s']:.0f} s.")
    first = next((r for r in rows if r["outcome"] == MEASURED), None)
    if first is not None:
        said.append(f"The first figure was on disk after {first['at_s']:.1f} s.")
    bad = failures(found)
    if bad:
        said.append(f"**Checks failed: {', '.join(bad)}. Mend them before any of these figures is used.**")
    said += [note["text"][0].upper() + note["text"][1:] + "." for note in found["notes"]]
    said += machine.remarks(run.get("machine", {}))
    return [f"- {sentence}" for sentence in said] + [""]


def _lost(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["name"], row["outcome"], str(row.get("error", "")).strip()


def _left_out(rows: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    return [f"## {title}", "", *(f"- {row['name']}" for row in rows), ""] if rows else []


def _figures(row: Mapping[str, Any]) -> list[str]:
    spread = row["p999_us"] / row["p50_us"] if row.get("p999_us") and row.get("p50_us") else None
    name = row["name"] + (f" ({row['ratio_p99']:.2f} of alone)" if "ratio_p99" in row else "")
    if row.get("copies", 1) > 1:
        name += f" ({row['copies']} copies, {row['copies_mib']} MiB)"
    times = [
        number(v) for v in (row.get("p50_us"), row.get("p99_us"), row.get("p999_us"), spread, row.get("device_us"))
    ]
    return [name, *times, str(row.get("sm_mhz") or "-")]


def _check(row: Mapping[str, Any]) -> list[str]:
    counts = [str(row.get(f"tests_{word}", "")) for word in ("passed", "failed", "skipped")]
    why = str(row.get("error", ""))
    if row.get("failing"):
        why += (
            ": "
            + ", ".join(row["failing"][:5])
            + (f" and {len(row['failing']) - 5} more" if len(row["failing"]) > 5 else "")
        )
    return [row["name"], row["outcome"], *counts, why]


def _machine(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {**run.get("machine", {}), **{k: v for k, v in run.items() if k not in ("machine", "rehearsal")}}
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k}={v}" for k, v in value.items() if v is not None) or "none set"
        elif isinstance(value, (list, tuple)):
            value = "; ".join(map(str, value)) or "none"
        if value is not None:
            lines.append((key.replace("_", " "), str(value)))
    return lines
