"""`rtaccel loop`: record the inputs of a loop with their times, and put them again."""

from __future__ import annotations

import argparse
import json

HELP = "record the values of a slot with their times, and replay them bit for bit"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=["record", "replay"], help="record a slot into a file, or put a file's values into a slot"
    )
    parser.add_argument(
        "name", help="of the slot (rt.Latest(name=)); record: of one with readers='many', where a loop reads it"
    )
    parser.add_argument("file", help="the recording, .npz")
    parser.add_argument("--seconds", type=float, help="record for so long")
    parser.add_argument("--count", type=int, help="record so many values")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="replay so much faster; 0: without waiting (%(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rtaccel.realtime.latest import Latest
    from rtaccel.realtime.record import Recording

    if args.what == "record":
        with Latest.open(args.name) as slot:
            made = Recording.of(slot, args.seconds, args.count)
        made.save(args.file)
        done = {"recorded": made.n, "lost": made.lost}
    else:
        made = Recording.load(args.file)
        with (
            Latest(made.values.shape[1:], made.dtype, args.name)
            if not _there(args.name)
            else Latest.open(args.name) as slot
        ):
            done = {"replayed": made.replay(slot, args.speed)}
    done["file"] = args.file
    print(json.dumps(done) if args.json else ", ".join(f"{key} {value}" for key, value in done.items()))
    return 0


def _there(name: str) -> bool:
    from pathlib import Path

    return Path(f"/dev/shm/rta.{name}").exists()
