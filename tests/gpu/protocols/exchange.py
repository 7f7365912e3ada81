"""Programs of one launch that hand each other parts of a vector, number after number, through two slots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

NUMBERS = 3
"""Vectors that are exchanged in a launch; two launches follow each other on the same words."""

VARIANTS = ("", "one slot", "ahead", "numbers begin anew")
"""What is left out. "ahead": a program publishes number n before it has all parts of n - 1. "numbers begin anew": they do not
go on from launch to launch, as `finish` of triton_exchange.py makes them."""


def program(index: int, programs: int, variant: str) -> Process:
    """Local: (launch, number, parts that came, whether its own is out)."""

    def slot(number: int) -> int:
        return 0 if variant == "one slot" else number & 1

    def publish(launch: int, number: int) -> Stores:
        return ((f"part{slot(number)}.{index}", (f"{launch}:{number}.{index}", number)),)

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        launch, number, came, first = local
        if launch == 2:
            return None
        if number is None:  # a launch begins when the one before has ended everywhere
            if read("atomic launches") != (launch,) * programs and launch:
                return []
            begin = 1 if variant == "numbers begin anew" else read("atomic begin")
            return [((launch, begin, (), begin), publish(launch, begin))]
        missing = [p for p in range(programs) if p not in came]
        if variant == "ahead" and missing and number < first + NUMBERS - 1 and index == 0 and index in came:
            missing = []
        if not missing:
            if number == first + NUMBERS - 1:
                done = list(read("atomic launches"))
                done[index] = launch + 1
                last = all(d == launch + 1 for d in done)
                stores: Stores = (("atomic launches", tuple(done)),)
                return [((launch + 1, None, (), 0), (*stores, ("atomic begin", number + 1)) if last else stores)]
            return [((launch, number + 1, (), first), publish(launch, number + 1))]
        found = []
        for p in missing:
            value, stored = read(f"part{slot(number)}.{p}")
            if stored == number:
                if value != f"{launch}:{number}.{p}":
                    raise Violation(f"program {index} takes {value!r} for part {p} of number {number}, launch {launch}")
                found.append(((launch, number, tuple(sorted((*came, p))), first), ()))
        return found

    return Process(f"program {index}", (0, None, (), 0), step)


def model(programs: int, variant: str = "") -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"atomic begin": 1, "atomic launches": (0,) * programs}
    memory |= {f"part{slot}.{p}": ("nothing", 0) for slot in (0, 1) for p in range(programs)}
    return [program(i, programs, variant) for i in range(programs)], memory
