"""Blocks of a cluster that store their parts of a vector into each other's shared memory, number after number, through two slots.

As in exchange.py, but each block has a copy of every slot, which is its own memory: what lay there before it began is
anything, and once it has ended nobody may store there. A barrier of the cluster stands behind the clearing, and one before
the end, for blocks that have given up a word: where all have come, nothing is under way.

Over a window (recurrent/cuda/window.cu) a block that gives up a word stops: it stores no more, so nobody takes what it made
without that word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

NUMBERS = 3
VARIANTS = (
    "",
    "not cleared",
    "no barrier behind the clearing",
    "no barrier before the end",
    "it comes before its stores are there",
    "one slot",
    "ahead",
    "goes on",
)
"""What is left out. "ahead": a block stores number n before it has all of n - 1. "goes on": one that should stop does."""

CLEAR, GONE = ("", 0), ("gone", -1)


def word(owner: int, slot: int, of: int) -> str:
    return f"block {owner} slot {slot} of {of}"


def block(index: int, blocks: int, variant: str, gives_up: bool, stops: bool) -> Process:
    """Local: (what it does, number, parts that came). gives_up: whether it may go on without parts that have not come.
    stops: whether it may give them up and end."""
    others = [b for b in range(blocks) if b != index]

    def slot(number: int) -> int:
        return 0 if variant == "one slot" else number & 1

    def published(number: int, made: str = "") -> Stores:
        return tuple((word(to, slot(number), index), (f"{number}.{index}{made}", number)) for to in others)

    def mine() -> list[str]:
        return [word(index, s, of) for s in (0, 1) for of in others]

    def come(name: str, read: Read) -> Stores:
        return ((f"atomic {name}", read(f"atomic {name}") + 1),)

    def publish(number: int, read: Read) -> tuple[Local, Stores]:
        for to in others:
            if read(f"atomic gone {to}"):
                raise Violation(f"block {index} stores number {number} into block {to}, which has ended")
        return (("receive", number, ()), published(number))

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        what, number, came = local
        if what == "clear":
            cleared: Stores = () if variant == "not cleared" else tuple((name, CLEAR) for name in mine())
            return [(("begin", 0, ()), cleared)]
        if what == "begin":  # a barrier releases what was stored before it: its own clearing is there
            if variant == "no barrier behind the clearing":
                return [publish(1, read)]
            if variant != "not cleared" and any(read(name) != CLEAR for name in mine()):
                return []
            return [(("wait to begin", 0, ()), come("begin", read))]
        if what == "wait to begin":
            return [publish(1, read)] if read("atomic begin") == blocks else []
        if what == "receive":
            missing = [p for p in others if p not in came]
            if variant == "ahead" and index == 0 and missing and number < NUMBERS:
                return [publish(number + 1, read)]
            if not missing:
                return [publish(number + 1, read) if number < NUMBERS else (("end", number, ()), ())]
            found: list[tuple[Local, Stores]] = []
            if gives_up:
                found.append((("receive", number, tuple(others)), ()))
            if stops and variant == "goes on":
                if number < NUMBERS:
                    found.append((("receive", number + 1, ()), published(number + 1, " of too little")))
            elif stops:
                found.append((("end", number, ()), ()))
            for p in missing:
                value, stored = read(word(index, slot(number), p))
                if stored == number:
                    if value != f"{number}.{p}":
                        raise Violation(f"block {index} takes {value!r} for part {p} of number {number}")
                    found.append((("receive", number, tuple(sorted((*came, p)))), ()))
            return found
        if what == "end":
            if variant == "no barrier before the end":
                return [(("ended", 0, ()), ((f"atomic gone {index}", 1),))]
            before = published(number - 1) if number > 1 else ()
            latest = dict(before + published(number))  # those of before came before them
            late = any(read(name) != value for name, value in latest.items())
            if late and variant != "it comes before its stores are there":
                return []
            return [(("wait to end", number, ()), come("end", read))]
        if what == "wait to end":
            if read("atomic end") != blocks:
                return []
            return [(("ended", 0, ()), ((f"atomic gone {index}", tuple(read(name) for name in mine())),))]
        return None

    return Process(f"block {index}", ("clear", 0, ()), step)


def watcher(blocks: int) -> Process:
    """Sees what is stored into a block that has ended. Local: (blocks that it has seen end,)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        for b in range(blocks):
            kept = read(f"atomic gone {b}")
            names = [word(b, s, of) for s in (0, 1) for of in range(blocks) if of != b]
            if isinstance(kept, tuple) and kept != tuple(read(name) for name in names):
                raise Violation(f"a store into block {b}, which has ended")
        ended = sum(bool(read(f"atomic gone {b}")) for b in range(blocks))
        if local[0] == "last look":
            return None
        return [(("last look",), ())] if ended == blocks else []

    return Process("watcher", (0,), step)


def model(
    blocks: int, variant: str = "", gives_up: bool = False, stops: bool = False
) -> tuple[list[Process], dict[str, Any]]:
    """What lay in a block before it began looks like words of an earlier launch."""
    memory: dict[str, Any] = {"atomic begin": 0, "atomic end": 0}
    memory |= {f"atomic gone {b}": 0 for b in range(blocks)}
    for b in range(blocks):
        memory |= {word(b, s, of): ("of another launch", 2 - s) for s in (0, 1) for of in range(blocks) if of != b}
    return [*(block(b, blocks, variant, gives_up, stops) for b in range(blocks)), watcher(blocks)], memory
