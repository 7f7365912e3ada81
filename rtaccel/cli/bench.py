"""`rtaccel bench`: latency of kernels and models, judged against budgets or against another git ref."""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtaccel.cli._common import beside
from rtaccel.cli._common import budget as _budget
from rtaccel.cli._common import target as _target
from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.core.process import whole_file

if TYPE_CHECKING:
    from rtaccel.cli._bench.against import Compared
    from rtaccel.cli._bench.suite import Item
    from rtaccel.measure.result import Latency

HELP = "time kernels of the registry and models, against budgets or against another git ref; exits with the verdict"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="*", metavar="WHAT",
        help="patterns of operator/case/kernel, such as 'linear/*', and targets (" + _target.HELP + "); nothing: every kernel",
    )  # fmt: skip
    _target.add_compile_options(parser)
    parser.add_argument("--shapes", metavar="FILE.toml", help="sizes to measure, as bench/shapes.toml has them")
    parser.add_argument("--list", action="store_true", help="print the names and measure nothing")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each (%(default)g)")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="AXIS=VALUE,...",
        help="measure at each value of batch, threads, scheme or backend; several make a grid, names end in [batch=8]",
    )  # fmt: skip
    parser.add_argument("--budgets", metavar="FILE.toml", help='limits by name: [budget."linear/..."]')
    parser.add_argument(
        "--against", metavar="REF", help="compare with this branch, tag or commit, built in a git worktree"
    )
    parser.add_argument("--rounds", type=int, help="of a comparison (30)")
    parser.add_argument("--processes", type=int, help="pairs of fresh processes for them (3)")
    parser.add_argument("--threshold", type=float, help="per cent slower of a comparison that count as slower (5)")
    _budget.add_undecided(parser)
    parser.add_argument("--out", metavar="FILE.html", help="write a report (without --against)")
    parser.add_argument("--csv", metavar="FILE.csv", help="write a row of figures for each name (without --against)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rtaccel.cli._bench.sweep import parse_sweep, swept

    _check(args)
    chosen = swept(args.what, Path(args.shapes) if args.shapes else None, args, parse_sweep(args.sweep))
    if args.list:
        names = [item.name for item, _ in chosen]
        print(json.dumps({"names": names}) if args.json else "\n".join(names))
        return 0
    return _against(args) if args.against else _alone(args, chosen)


def _check(args: argparse.Namespace) -> None:
    beside.settle("bench", args, "against", rounds=30, processes=3, threshold=5.0)
    if not 1 <= args.processes <= args.rounds:
        got = f"--rounds {args.rounds} --processes {args.processes}"
        raise FormatError("bench", got, "at least as many rounds as processes, and 1 of each", "Leave them out.")
    if not 0 <= args.threshold < 1000:
        raise FormatError("bench", f"--threshold {args.threshold:g}", "per cent, 0 or more", "5 is the default.")
    if args.against and (args.budgets or args.out or args.csv or args.sweep):
        got = next(f"--{name}" for name in ("budgets", "out", "csv", "sweep") if getattr(args, name))
        raise FormatError("bench", f"--against with {got}", "one or the other", "A comparison is judged by its ratios.")
    for name in ("out", "csv"):
        if getattr(args, name) is not None:
            whole_file.target_of("bench", getattr(args, name), f"--{name}")


# -- against budgets ---------------------------------------------------------------------------------------------------


def _alone(args: argparse.Namespace, chosen: Sequence[tuple[Item, Mapping[str, Any]]]) -> int:
    from rtaccel.cli._bench.rows import unused_rows
    from rtaccel.cli._common.progress import bar
    from rtaccel.measure.budget import load_budgets
    from rtaccel.measure.latency import measure

    budgets = load_budgets(args.budgets) if args.budgets else {}
    unused = unused_rows(budgets, [item.name for item, _ in chosen], args)
    results, points, left_out = [], [], {}
    with _one_thread(), bar("measuring", len(chosen), "names") as advance:
        for item, point in chosen:
            try:
                call, size = item.make()
            except RtaccelError as error:
                left_out[item.name] = str(error)
                advance(item.name)
                continue
            results.append(
                measure(call, (), budgets.get(item.name), seconds=args.seconds, name=item.name, size_bytes=size)
            )
            points.append(point)
            advance(item.name)
    if not results:
        raise FormatError("bench", "nothing that could be made", "at least one", "; ".join(left_out.values()))
    command = shlex.join(["rtaccel", *sys.argv[1:]])
    if args.out:
        from rtaccel.measure.report import write_report

        notes = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
        write_report(args.out, results, title="Benchmark", command=command, notes=notes)
    if args.csv:
        write_csv(args.csv, [dict(point) | row for r, point in zip(results, points) for row in r.records()])
    if args.json:
        rows = [result.to_dict() | {"point": dict(point)} for result, point in zip(results, points)]
        environment, *_ = [row.pop("environment") for row in rows]
        found: dict[str, Any] = {"rows": rows, "left_out": left_out, "command": command}
        found |= {"budgets_unused": [*unused.left_out], "budgets_elsewhere": [*unused.elsewhere]}
        print(json.dumps(found | {"environment": environment}, indent=2, allow_nan=False))
    else:
        print(_figures(results))
        print(
            "\n".join(
                [
                    *(f"{n} is left out: {r}" for n, r in left_out.items()),
                    *(f"has a budget and was not asked for: {n}" for n in unused.left_out),
                    *(f"has a budget and is not of this CPU: {n}" for n in unused.elsewhere),
                ]
            )
        )
    failed = [result.verdict for result in results] + ["FAIL"] * bool(set(left_out) & set(budgets))
    return _budget.exit_code(failed, args.allow_undecided)


def write_csv(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A column for every key that a row has; a cell that a row has not is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    whole_file.write("bench", path, text.getvalue())


def _figures(results: Sequence[Latency]) -> str:
    from rtaccel.measure.numbers import figure

    rows: list[tuple[str, ...]] = [("", "calls", "p50 us", "p99 us", "p99.9 us", "max us", "verdict")]
    for r in results:
        figures = (figure(us) for us in (r.p50_us, r.p99_us, r.p999_us, r.max_us))
        rows.append((r.name, f"{r.n:,}", *figures, r.verdict or "no budget"))
    lines = _aligned(rows)
    return "\n".join(
        [*lines, *(f"{r.name}: {line.verdict} {line.key}: {line.reason}" for r in results for line in r.lines)]
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# -- against another ref -----------------------------------------------------------------------------------------------


def _against(args: argparse.Namespace) -> int:
    import tempfile

    from rtaccel.cli._bench import against, build
    from rtaccel.cli._common.progress import bar, say

    there = build.installed(args.against, build.repository_here(), say)
    options = {name: getattr(args, name) for name in ("scheme", "backend", "device", "threads")}
    request = {"items": args.what, "shapes": args.shapes and str(Path(args.shapes).resolve()), "options": options}

    @contextmanager
    def progress(titles: Sequence[str]) -> Iterator[Callable[[str], None]]:
        with bar(titles[0], len(titles) - 1, "names") as advance:
            yield advance

    with tempfile.TemporaryFile("w+") as log:
        roots = {against.HERE: "-", against.THERE: str(there)}
        found = against.compare(
            roots, request, args.rounds, args.processes, args.threshold / 100, log, progress
        )  # fmt: skip
    if args.json:
        from rtaccel.measure.machine.environment import environment

        rows = [row.to_dict() for row in found]
        print(
            json.dumps({"against": args.against, "rows": rows, "environment": environment()}, indent=2, allow_nan=False)
        )
    else:
        print(_ratios(found, args.against))
    return _budget.exit_code([row.verdict for row in found], args.allow_undecided)


def _ratios(found: Sequence[Compared], ref: str) -> str:
    from rtaccel.measure.numbers import figure

    rows: list[tuple[str, ...]] = [("", "here us", f"{ref} us", "time, x", "interval", "verdict")]
    for row in found:
        if row.ratio is not None:
            change = "slower" if row.verdict == "FAIL" else "faster" if row.ratio.high < 1 else "no slower"
            word = "UNDECIDED" if row.verdict == "UNDECIDED" else f"{row.verdict}, {change}"
            bounds = f"{row.ratio.low:.3f} .. {row.ratio.high:.3f}"
            times = (figure(row.here_us or 0.0), figure(row.there_us or 0.0))
            rows.append((row.name, *times, f"{row.ratio.value:.3f}", bounds, word))
    left = [f"{row.name} is left out: {row.left_out}" for row in found if row.left_out]
    return "\n".join([*_aligned(rows), *left])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    last = len(rows[0]) - 1
    widths = [max(len(row[i]) for row in rows) for i in range(last + 1)]
    return [
        "  ".join(c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]
