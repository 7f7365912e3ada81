"""Cases that take turns by the day, where a run of all of them takes minutes. `make check` runs all.

`todays` chooses of cases. `@pytest.mark.turns(days)` leaves the tests of other days out of a run of everything; who names files
runs all of theirs. Tests that share a fixture have the same day where the mark has its name too: `turns(days, "fixture")`.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar
from zlib import crc32

import pytest

Case = TypeVar("Case")
EVERY = "RTACCEL_EVERY_CHECK" in os.environ
DAY = int(os.environ.setdefault("RTACCEL_DAY", str(datetime.date.today().toordinal())))
"""Of the whole run, and of all its processes: another day's is run again by setting it."""


def turn(days: int) -> int:
    """Which of so many days today is, from 0."""
    return DAY % days


def todays(cases: Sequence[Case], days: int) -> list[Case]:
    """Each of them in one of so many days."""
    return [case for i, case in enumerate(cases) if EVERY or i % days == turn(days)]


def others(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The marked tests whose turn is on another day. Those of a module are counted together, from a number of its own: modules
    with one such test do not all have the same day."""
    counts, found = Counter[tuple[Any, ...]](), []
    for item in items:
        mark = item.get_closest_marker("turns")
        if mark is None:
            continue
        days, *fixture = mark.args
        key = (item.nodeid.partition("::")[0], days, *fixture)
        if (counts[key] + crc32(":".join([key[0], *fixture]).encode())) % days != turn(days):
            found.append(item)
        counts[key] += not fixture
    return found
