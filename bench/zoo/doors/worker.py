"""The process of one network: `python -m bench.zoo.doors.worker NAME FILE DOOR...` tries doors and writes FILE after each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.zoo.doors.alone import BEGUN
from bench.zoo.doors.outcome import Doors, outcome
from bench.zoo.doors.subject import Subject
from bench.zoo.doors.through import DOORS
from bench.zoo.entry import Entry, NotInstalled, entries, version
from bench.zoo.packages import offline
from bench.zoo.survey import said
from rtaccel.core.errors import RtaccelError


def main() -> None:
    name, target, doors = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    offline()
    torch.set_num_threads(1)
    go(entries()[name], target, doors)


def go(entry: Entry, target: Path, doors: Sequence[str]) -> None:
    """Tries the doors, and writes what is known into `target` before and after each."""
    found = Doors(entry.name, entry.domain, entry.package, "broken", version(entry.package))

    def say(begun: str = "") -> None:
        part = target.with_suffix(".part")
        part.write_text(json.dumps(found.as_json() | {BEGUN: begun}))
        part.replace(target)

    try:
        subject = Subject(*entry.build())
    except NotInstalled as reason:
        found = replace(found, status="left out", reason=str(reason))
        return say()
    except Exception as error:  # what a package raises with these versions is a result here
        found = replace(found, reason=said(error))
        return say()
    try:
        form = type(subject.fast).__name__
    except RtaccelError as error:
        found = replace(found, status="refused", reason=said(error))
        return say()
    except Exception as error:  # an error of no type of ours is a defect, and is reported as one
        found = replace(found, status="failed", reason=said(error))
        return say()
    found = replace(found, status="through", form=form)
    for name in doors:
        say(name)
        door = DOORS[name]
        found.by_door[name] = outcome(lambda door=door: door(subject))
    return say()


if __name__ == "__main__":
    main()
