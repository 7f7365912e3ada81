"""Cases that take turns by the day, where a run of all of them takes minutes. `make check` runs all.

`todays` chooses of cases. Of the tests of a whole run, as many cases of a function run on a day as take `SECONDS_A_DAY`, or one:
`tests/seconds.json` has what all of them take, and `python -m tests.turns FILE.xml` writes it. `@pytest.mark.turns(days)` leaves
cases out at least so often, and `turns(days, "fixture")` gives tests that share a slow fixture the same day. Who names files runs
all of theirs.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree
from zlib import crc32

import pytest

Case = TypeVar("Case")
EVERY = "RTACCEL_EVERY_CHECK" in os.environ
DAY = int(os.environ.setdefault("RTACCEL_DAY", str(datetime.date.today().toordinal())))
"""Of the whole run, and of all its processes: another day's is run again by setting it."""
SECONDS_A_DAY = 1.5
MAX_DAYS = 12
TABLE = Path(__file__).with_name("seconds.json")


def turn(days: int) -> int:
    """Which of so many days today is, from 0."""
    return DAY % days


def todays(cases: Sequence[Case], days: int) -> list[Case]:
    """Each of them in one of so many days."""
    return [case for i, case in enumerate(cases) if EVERY or i % days == turn(days)]


def seconds() -> dict[str, float]:
    """What all cases of a function take, where that is more than `SECONDS_A_DAY`: by `tests/test_file.py::test_function`."""
    found: dict[str, float] = json.loads(TABLE.read_text())
    return found


def mark_long(items: Sequence[pytest.Item]) -> None:
    """The mark for each test whose function is in the table, unless its own mark leaves it out as often."""
    table = seconds()
    for item in items:
        name = item.nodeid.partition("[")[0]
        days = min(round(table.get(name, 0) / SECONDS_A_DAY), MAX_DAYS)
        mark = item.get_closest_marker("turns")
        if days > (mark.args[0] if mark else 1) and (mark is None or len(mark.args) == 1):
            item.add_marker(pytest.mark.turns(days, of=name), append=False)


def others(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The marked tests whose turn is on another day. Those of a module are counted together, from a number of its own: modules
    with one such test do not all have the same day. So are those of a function in the table."""
    counts, found = Counter[tuple[Any, ...]](), []
    for item in items:
        mark = item.get_closest_marker("turns")
        if mark is None:
            continue
        days, *fixture = mark.args
        key = (mark.kwargs.get("of", item.nodeid.partition("::")[0]), days, *fixture)
        if (counts[key] + crc32(":".join([key[0], *fixture]).encode())) % days != turn(days):
            found.append(item)
        counts[key] += not fixture
    return found


def record(report: Path) -> None:
    """Into the table, what the functions of a report took (`--junitxml`): of a run of named files, or of every check."""
    taken = Counter[str]()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        path = Path(*case.attrib["classname"].split(".")).with_suffix(".py")
        if path.exists():  # else a method of a class
            taken[f"{path.as_posix()}::{case.attrib['name'].partition('[')[0]}"] += float(case.attrib["time"])
    table = {
        name: took for name, took in seconds().items() if name not in taken and Path(name.partition("::")[0]).exists()
    }
    table |= {name: round(took, 1) for name, took in taken.items() if took > SECONDS_A_DAY}
    TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=0) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
