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
        "name",
        help="of the slot (rt.Latest(name=)), or of several, separated by commas; record: of one with readers='many', where "
        "a loop reads it",
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

    if "," in args.name:
        return _several(args)
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
    return _say(args, done)


def _several(args: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from rtaccel.core.errors import FormatError
    from rtaccel.realtime.latest import Latest
    from rtaccel.realtime.record_many import Recordings

    names = args.name.split(",")
    with ExitStack() as stack:
        if args.what == "record":
            slots = {name: stack.enter_context(Latest.open(name)) for name in names}
            made = Recordings.of(slots, args.seconds, args.count)
            made.save(args.file)
            return _say(args, {"recorded": made.n, "lost": made.lost, "slots": len(made.parts)})
        made = Recordings.load(args.file)
        if len(names) != len(made.parts):
            raise FormatError(
                "replay", f"slots {names}", f"one for each of {list(made.parts)}", "Name them in that order."
            )
        slots = {}
        for name, (recorded, part) in zip(names, made.parts.items(), strict=True):
            slot = Latest.open(name) if _there(name) else Latest(part.values.shape[1:], part.dtype, name)
            slots[recorded] = stack.enter_context(slot)
        return _say(args, {"replayed": made.replay(slots, args.speed), "slots": len(slots)})


def _say(args: argparse.Namespace, done: dict[str, int]) -> int:
    said = {**done, "file": args.file}
    print(json.dumps(said) if args.json else ", ".join(f"{key} {value}" for key, value in said.items()))
    return 0


def _there(name: str) -> bool:
    from pathlib import Path

    return Path(f"/dev/shm/rta.{name}").exists()
