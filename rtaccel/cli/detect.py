"""`rtaccel detect`: anomalies of a series in a CSV file, as they would have been found while it came in."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from pathlib import Path

from rtaccel.cli._common import beside
from rtaccel.core.process import whole_file

HELP = "score the values of a CSV file one by one, list what is unusual, and draw it"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="a head, then one row for each value, oldest first")
    parser.add_argument("--time", metavar="COLUMN", help="ISO dates or seconds since 1970 (default: found by its name)")
    parser.add_argument("--value", metavar="COLUMN", help="numbers; an empty cell is missing (default: the only one)")
    parser.add_argument("--range", type=float, default=0.005, help="alert beyond this share of the range (%(default)g)")
    parser.add_argument(
        "--season", type=float, default=800, help="alert at the largest of so many values (%(default)g)"
    )
    parser.add_argument("--jump", type=float, default=8000, help="alert at the largest jump of so many (%(default)g)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="write each row with its score as CSV")
    parser.add_argument("--live", action="store_true", help="plot the values in the terminal as they are scored")
    parser.add_argument(
        "--follow", action="store_true", help="as --live, and wait for rows that are appended, until Ctrl-C"
    )
    parser.add_argument("--rows-per-second", type=float, help="of --live (0: as fast as they are scored, the default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 with and without alerts."""
    import numpy as np

    from rtaccel.cli._detect import live, show, table
    from rtaccel.cli._detect.find import find
    from rtaccel.core.errors import FormatError
    from rtaccel.online.records import Records

    for option, path in (("--html", args.html), ("--scores", args.scores)):
        if path is not None:
            whole_file.target_of("detect", path, option)
        if path is not None and path.exists() and args.file.exists() and path.samefile(args.file):
            raise FormatError("detect", f"{option} {path}", "another file than the input", "Choose another name.")
    beside.settle("detect", args, "live follow", rows_per_second=0.0)
    if not 0 <= args.rows_per_second < math.inf:
        got = f"--rows-per-second {args.rows_per_second:g}"
        raise FormatError("detect", got, "0 or a positive number", "0 is as fast as they are scored.")
    series, scored = table.read(args.file, args.time, args.value), None
    if args.live or args.follow:
        detector = Records(args.range, args.season, args.jump)
        seen = live.watch(args.file, series, detector, args.follow, args.rows_per_second)
        if len(seen.values) > 1:  # else Ctrl-C came at once: the report is of the whole file
            series, scored = seen.table(series), (np.array(seen.scores), seen.spent_ns)
    found = find(series, {"range": args.range, "season": args.season, "jump": args.jump}, scored)
    if args.html is not None:
        whole_file.write("detect", args.html, show.html(found, _command(args)))
    if args.scores is not None:
        show.write_scores(found, args.scores)
    print(json.dumps(show.as_json(found), indent=2) if args.json else show.text(found))
    return 0


def _command(args: argparse.Namespace) -> str:
    words = ["rtaccel", "detect", str(args.file)]
    for option in ("time", "value"):
        if getattr(args, option) is not None:
            words += [f"--{option}", getattr(args, option)]
    words += [f"--{name}={getattr(args, name):g}" for name in ("range", "season", "jump")]
    return shlex.join(words)
