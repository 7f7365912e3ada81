"""What every example is made of: options, a table, limits with one verdict, JSON and an HTML page."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtaccel.core.errors import RtaccelError
from rtaccel.measure.numbers import figure
from rtaccel.measure.rendering.page import page, table_section

SKIPPED = 2
"""Exit code where something that the example needs is missing, as of `rtaccel`."""


class Missing(Exception):
    """What is not there, and what to do about it."""


@dataclass(frozen=True)
class Limit:
    """A figure that the verdict depends on. at_least: it must not be smaller; else not larger."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def held(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def text(self) -> str:
        sign = ">=" if self.at_least else "<="
        word = "PASS" if self.held else "FAIL"
        return f"{word}: {self.name} {figure(self.value)} {sign} {figure(self.limit)}"


@dataclass
class Outcome:
    """rows: of the table, the first the head. metrics: JSON values, with units in their names. sections: of the page, as HTML.
    tables: title -> rows of further ones."""

    example: str
    title: str
    summary: str
    rows: Sequence[Sequence[str]]
    metrics: dict[str, Any]
    limits: Sequence[Limit]
    notes: Sequence[str] = ()
    sections: Sequence[str] = field(default_factory=list)
    tables: dict[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return "PASS" if all(limit.held for limit in self.limits) else "FAIL"

    def text(self) -> str:
        lines = [self.title, "", aligned(self.rows), "", *self.notes]
        for title, rows in self.tables.items():
            lines += ["", title, "", aligned(rows)]
        lines += ["", *(limit.text for limit in self.limits), f"verdict: {self.verdict}"]
        return "\n".join(lines)

    def html(self, command: str) -> str:
        failed = [limit.name for limit in self.limits if not limit.held]
        headline = f"not held: {', '.join(failed)}" if failed else "every limit is held"
        limits = [("limit", "measured", "allowed", "verdict")]
        for limit in self.limits:
            sign = "at least" if limit.at_least else "at most"
            limits.append(
                (
                    limit.name,
                    figure(limit.value),
                    f"{sign} {figure(limit.limit)}",
                    "held" if limit.held else "not held",
                )
            )
        sections = [table_section("Results", self.rows, " ".join(self.notes)), *self.sections]
        sections += [table_section(title, rows) for title, rows in self.tables.items()]
        return page(
            self.title,
            self.summary,
            [*sections, table_section("Limits", limits)],
            verdict=self.verdict,
            headline=headline,
            command=command,
        )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def options(about: str, with_data: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write verdict and metrics")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument("--quick", action="store_true", help="less of everything, in some seconds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: times on the GPU as well")
    if with_data:
        parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the data lies; see README.md")
    return parser


def main(
    example: str,
    about: str,
    work: Callable[[argparse.Namespace], Outcome],
    with_data: bool = False,
    argv: Sequence[str] | None = None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Runs an example. more: adds options of its own. Exit code 0 for PASS, 1 for FAIL, 2 where something is missing."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = options(about, with_data)
    if more is not None:
        more(parser)
    args = parser.parse_args(words)
    for path in (args.json, args.html):
        if path is not None and not path.absolute().parent.is_dir():
            print(f"{example}: no folder {path.parent} for {path.name}; create it first.", file=sys.stderr)
            return SKIPPED
    try:
        if args.device == "cuda":
            from examples._shared.device import check

            check(args.device)
        outcome = work(args)
    except (Missing, RtaccelError) as error:
        print(f"{example}: {error}", file=sys.stderr)
        if args.json is not None:
            said = {"example": example, "verdict": "SKIPPED", "reason": str(error), "metrics": {}}
            args.json.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        return SKIPPED
    if args.json is not None:
        found = {"example": example, "verdict": outcome.verdict, "metrics": outcome.metrics}
        args.json.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.html is not None:
        command = shlex.join(["python", f"examples/{example}/run.py", *words])
        args.html.write_text(outcome.html(command), encoding="utf-8")
    print(outcome.text())
    return 0 if outcome.verdict == "PASS" else 1
