"""The same report as Markdown, for the description of a pull request: verdict, figures, stages, machine, command."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.measure.machine.environment import describe, load_text
from rtaccel.measure.numbers import figure, unit_of
from rtaccel.measure.rendering.witness import HEAD as WITNESS_HEAD
from rtaccel.measure.rendering.witness import witness_lines, witness_rows
from rtaccel.measure.result import Latency, check_results
from rtaccel.measure.stages import HEAD, StageProfile, rows, summary
from rtaccel.measure.verdict import Line, overall

SHOWN = ("cpu", "isa", "governor", "gpu", "hypervisor", "load average", "python", "versions", "date")
"""Rows of the environment record that are worth a line here."""


def render_markdown(
    results: Sequence[Latency],
    *,
    title: str,
    command: str | None = None,
    stages: StageProfile | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """results, title, command, stages, facts: as in `render_report`. Raises FormatError when there are no results."""
    check_results(results, title)
    lines = [line for result in results for line in result.lines]
    parts = [f"### {_cell(title)}"]
    if lines:
        load = load_text(results[0].environment)
        parts.append(f"**{overall(lines)}**" + (f", {load}" if load else ""))
    times = [(r.p50_us, r.p99_us, r.p999_us, r.max_us) for r in results]
    unit, factor = unit_of([us for four in times for us in four])
    heads = (f"{label}, {unit}" for label in ("p50", "p99", "p99.9", "max"))
    table: list[tuple[str, ...]] = [("name", *heads, "calls", "verdict")]
    table += [
        (
            r.name if r.mode == "warm" else f"{r.name} ({r.mode})",
            *(figure(us * factor) for us in four), f"{r.n:,}",
            r.verdict or "no budget",
        )
        for r, four in zip(results, times)
    ]  # fmt: skip
    parts.append(_table(table, text=1))
    if lines:
        judged = [("name", "what", "limit", "verdict", "why")]
        for r in results:
            judged += [(r.name, line.key, _limit(line), line.verdict, line.reason) for line in r.lines]
        parts.append(_table(judged, text=5))
    seen = witness_lines(results)
    if seen:
        missed = witness_rows(results)
        table_of_misses = _table([WITNESS_HEAD, *missed], text=2) + "\n\n" if missed else ""
        parts.append(
            _folded("What the machine did meanwhile", table_of_misses + "\n".join(f"- {_cell(s)}" for s in seen))
        )
    if stages is not None:
        parts.append(_folded("Where the time goes", _table([HEAD, *rows(stages)], text=2) + f"\n\n{summary(stages)}"))
    if facts:
        parts.append("\n".join(f"- {_cell(label)}: {_cell(text)}" for label, text in facts))
    record = [f"- {label}: {_cell(text)}" for label, text in describe(results[0].environment) if label in SHOWN]
    parts.append(_folded("Machine and software", "\n".join(record)))
    if command:
        fence = "`" * (1 + max((len(run) for run in _ticks(command)), default=2))
        parts.append(f"{fence}\n{command}\n{fence}")
    return "\n\n".join(parts) + "\n"


def _limit(line: Line) -> str:
    return f"{'≥' if line.key.startswith('min_') else '≤'} {figure(line.limit, 6)}"


def _table(rows: Sequence[Sequence[str]], text: int) -> str:
    """The first `text` columns to the left, figures to the right."""
    head, *body = rows
    rule = ["---" if i < text else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [head, rule, *body])


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _cell(text: str) -> str:
    """On one line, and no mark-up of its own."""
    escaped = "".join(f"\\{c}" if c in "\\|*`<>[]" else c for c in text)
    return " ".join(escaped.split())


def _ticks(text: str) -> list[str]:
    runs, run = [], ""
    for c in [*text, ""]:
        if c == "`":
            run += c
        elif run:
            runs.append(run)
            run = ""
    return [*runs, "``"]
