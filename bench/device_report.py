"""The results as Markdown, and what they come to: which checks failed."""

from __future__ import annotations

from typing import Any

from bench.device_goals import judged


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def failures(found: dict[str, Any]) -> list[str]:
    """Names of checks that ran and did not pass. A row that could not run is none, unless it was a check;
    nor are tests that had no time to end."""
    tests = found.get("tests")
    bad = ["the tests on the card"] if tests and tests["passed"] is False else []
    return bad + [
        row["name"] for row in found["rows"] if row.get("passed") is False or (row.get("check") and "error" in row)
    ]


def render(found: dict[str, Any]) -> str:
    timed = [row for row in found["rows"] if "p50_us" in row]
    checks = [row for row in found["rows"] if "p50_us" not in row]
    lines = [f"# {found['card']}", ""]
    tests = found.get("tests")
    lines += [f"Tests on the card: {tests['summary'] if tests else 'left out'}.", ""]
    lines += ["| | p50 us | p99 us | p99.9 us | p99.9 / p50 | device us |", "|---|---|---|---|---|---|"]
    for row in timed:
        spread = row["p999_us"] / row["p50_us"] if row.get("p999_us") else None
        cells = [_number(v) for v in (row["p50_us"], row["p99_us"], row["p999_us"], spread, row.get("device_us"))]
        name = row["name"] + (f" ({row['ratio_p99']:.2f} of alone)" if "ratio_p99" in row else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if checks:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {row['name']} | {row.get('error', 'passed')} |" for row in checks]
    lines += ["", "| row | goal | |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in judged(found["rows"])]
    return "\n".join(lines)
