"""`rtaccel top`: the statistics of a running loop, live."""

from __future__ import annotations

import argparse
import json
import time

from rtaccel.core.errors import FormatError

HELP = "show the statistics of a running loop, live"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of the loop (rt.Loop(name=)); none: list those that are there")
    parser.add_argument("--once", action="store_true", help="print them once")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="end after so long (0: when the loop ends, or Ctrl-C)"
    )
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two looks (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, once")


def run(args: argparse.Namespace) -> int:
    from rtaccel.realtime.stats import LoopStats, StatsReader, names

    if args.name is None:
        found = [LoopStats.open(name) for name in names()]
        if args.json:
            print(json.dumps([s.to_dict() for s in found]))
        else:
            for s in found:
                print(f"{s.name}  {s.state}, {s.cycles:,} cycles, {s.misses:,} late, {s.stale:,} stale")
        return 0
    for option in ("seconds", "every"):
        if not 0 <= getattr(args, option) < 1e9:
            got = f"--{option} {getattr(args, option):g}"
            raise FormatError("top", got, "seconds, 0 or more", "Leave it out, or pass a number.")
    reader = StatsReader(args.name)
    if args.json or args.once:
        stats = reader.read()
        print(json.dumps(stats.to_dict()) if args.json else stats)
        return 0
    return _live(reader, args.every, args.seconds)


def _live(reader: object, every: float, seconds: float) -> int:
    from rich.live import Live
    from rich.table import Table

    from rtaccel.realtime.stats import LoopStats, StatsReader

    assert isinstance(reader, StatsReader)

    def table(stats: LoopStats) -> Table:
        made = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, text in stats.rows():
            made.add_row(label, text)
        return made

    end = time.monotonic() + seconds if seconds > 0 else float("inf")
    stats = reader.read()
    with Live(table(stats), refresh_per_second=max(1.0, 1.0 / max(0.02, every))) as live:
        while stats.state in ("made", "running") and time.monotonic() < end:
            time.sleep(max(0.02, every))
            stats = reader.read()
            live.update(table(stats))
    return 0
