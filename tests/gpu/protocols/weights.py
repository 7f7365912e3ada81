"""Other weights for a persistent kernel: one thread swaps, another calls, two blocks compute from the set that a message named.

A set is one word, which every block sees in its own time, and keeps in its cache. A fence of whoever read a word holds until he
sees what its sender had written before it, and empties his cache; one before a word is passed on holds until all see it. Both
blocks read their set in every time step, and behind the answer for what the next one needs; a message with an order does that
again. The answer says what they read. So whoever writes a set need not wait for a message under way, if he knows whether his last
order was sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

VARIANTS = (
    "",
    "one set",
    "an order is not taken back",
    "an order is lost to another",
    "what was made behind an answer is kept",
    "no fence of the first block",
    "no fence before it is passed on",
    "no fence of the others",
)
"""What is left out. "an order is lost to another": a reset, which orders something too, writes over what was ordered."""

BLOCKS = 2


def seen(which: int, block: int) -> str:
    return f"set{which} of {block}"


def swapper(swaps: int, variant: str) -> Process:
    """Local: (weights that it brings next, what it does, set in use, set that is ordered)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, used, ordered = local
        if number > swaps:
            return None
        if what == "withdraw":
            if variant == "an order is not taken back":
                return [((number, "write", ordered, ordered), ())]
            if read("atomic pending"):
                before = read("atomic promised")[1]
                back: Stores = (("atomic pending", ()), ("atomic promised", (before, before)))
                return [((number, "write", used, used), back)]
            return [((number, "write", ordered, ordered), ())]
        spare = used if variant == "one set" else 1 - used
        if what == "write":
            copies = tuple((seen(spare, block), number) for block in range(BLOCKS))
            return [((number, "order", used, spare), copies)]
        promised = (number, read("atomic promised")[0])
        return [
            (
                (number + 1, "withdraw", used, ordered),
                (("atomic pending", (ordered, number)), ("atomic promised", promised)),
            )
        ]

    return Process("swapper", (1, "withdraw", 0, 0), step)


def caller(messages: int, variant: str, reads: int = 2) -> Process:
    """Local: (message, weights that it must be computed with, what it does). It resets before its second message. reads: how
    often a block reads its set for a message."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, weights, what = local
        if number > messages:
            return None
        if what == "reset":
            lost: Stores = (("atomic pending", ()),) if variant == "an order is lost to another" else ()
            return [((number, weights, "send"), lost)]
        if what == "send":
            order = read("atomic pending")
            message = (f"request{number & 1}", (order, number))
            return [((number, read("atomic promised")[0], "sent"), (("atomic pending", ()), message))]
        answer, stored = read(f"reply{number & 1}")
        if stored != number:
            return []
        if answer != ((weights,) * reads,) * BLOCKS:
            raise Violation(f"message {number} is computed with weights {answer}, not {weights}")
        return [((number + 1, weights, "reset" if number == 1 else "send"), ())]

    return Process("caller", (1, 0, "send"), step)


def read_set(index: int, which: int, cache: Any, read: Read) -> list[tuple[int, Any]]:
    """What reading a set may give a block, and its cache behind it: what is there, or what it was."""
    held, there = dict(cache), read(seen(which, index))
    return [(v, tuple(sorted({**held, which: v}.items()))) for v in sorted({there, held.get(which, there)})]


def visible(order: Any, to: Iterable[int], read: Read) -> bool:
    """Whether blocks see the weights of an order."""
    return all(read(seen(order[0], b)) >= order[1] for b in to)


def block(index: int, messages: int, variant: str) -> Process:
    """Local: (number, what it does, its order, the set, its cache, what was read for this number before and in its time step)."""
    others = range(1, BLOCKS) if index == 0 else ()

    def weights(which: int, cache: Any, read: Read) -> list[tuple[int, Any]]:
        return read_set(index, which, cache, read)

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, order, which, cache, made = local
        if number > messages:
            return None
        if what == "wait":
            order, stored = read(f"{'request' if index == 0 else 'message'}{number & 1}")
            return [((number, "fence" if order else "pass", order, which, cache, made), ())] if stored == number else []
        if what == "fence":
            if variant == ("no fence of the first block" if index == 0 else "no fence of the others"):
                return [((number, "pass", order, order[0], cache, made), ())]
            # Of what the first block passed on without a fence, the others are promised nothing.
            promised = index == 0 or variant != "no fence before it is passed on"
            if promised and not visible(order, (index,), read):
                return []
            return [((number, "pass", order, order[0], (), made), ())]
        if what == "pass":
            if order and variant != "no fence before it is passed on" and not visible(order, others, read):
                return []
            passed: Stores = ((f"message{number & 1}", (order, number)),) if index == 0 else ()
            again = order and variant != "what was made behind an answer is kept"
            return [((number, "again" if again else "read", (), which, cache, made), passed)]
        if what == "again":
            return [((number, "read", (), which, kept, (v,)), ()) for v, kept in weights(which, cache, read)]
        if what == "read":
            found: list[tuple[Local, Stores]] = []
            for v, kept in weights(which, cache, read):
                part: Stores = ((f"part{number & 1}", ((*made, v), number)),) if index else ()
                found.append(((number, "prepare" if index else "parts", (), which, kept, (*made, v)), part))
            return found
        if what == "parts":
            value, stored = read(f"part{number & 1}")
            if stored != number:
                return []
            reply: Stores = ((f"reply{number & 1}", ((made, value), number)),)
            return [((number, "prepare", (), which, cache, ()), reply)]
        return [((number + 1, "wait", (), which, kept, (v,)), ()) for v, kept in weights(which, cache, read)]

    return Process(f"block {index}", (1, "wait", (), 0, (), (0,)), step)


TRITON_VARIANTS = (
    "",
    "one set",
    "an order is not taken back",
    "an order is lost to another",
    "a message with an order is not read again",
    "what was made before a message is kept",
    "no acquire",
    "no fence before it is passed on",
)


def program(index: int, messages: int, variant: str) -> Process:
    """A program of Triton's, in whose registers a set is: a loop around the one over messages loads it. A message with an order
    ends the inner loop, and is then read, and passed on, once more.

    Local: (number, what it does, its order, the set, its cache, what it read: at its load, before the message, in its time step).
    """

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, order, which, cache, made = local
        if number > messages:
            return None
        if what == "load":
            return [((number, "before", (), which, kept, (v,)), ()) for v, kept in read_set(index, which, cache, read)]
        if what == "before":
            if len(made) == 2:  # the variant's: made before, and not made again
                return [((number, "wait", (), which, cache, made), ())]
            found = read_set(index, which, cache, read)
            return [((number, "wait", (), which, kept, (*made, v)), ()) for v, kept in found]
        if what == "wait":
            order, stored = read(f"{'request' if index == 0 else 'message'}{number & 1}")
            return [((number, "pass", order, which, cache, made), ())] if stored == number else []
        if what == "pass":
            if index == 0:
                if order and variant != "no fence before it is passed on" and not visible(order, range(BLOCKS), read):
                    return []
                passed: Stores = ((f"message{number & 1}", (order, number)),)
                return [((number, "look", order, which, cache, made), passed)]
            return [((number, "look", order, which, cache, made), ())]
        if what == "look":
            if not order or order[0] == which:
                return [((number, "read", (), which, cache, made), ())]
            promised = index == 0 or variant != "no fence before it is passed on"
            if variant != "no acquire":
                if promised and not visible(order, (index,), read):
                    return []
                cache = ()
            following = number + (variant == "a message with an order is not read again")
            if variant == "what was made before a message is kept":
                found = read_set(index, order[0], cache, read)
                return [((number, "before", (), order[0], kept, (v, made[1])), ()) for v, kept in found]
            return [((following, "load", (), order[0], cache, ()), ())]
        if what == "read":
            answers: list[tuple[Local, Stores]] = []
            for v, kept in read_set(index, which, cache, read):
                part: Stores = ((f"part{number & 1}", ((*made, v), number)),) if index else ()
                after = (number + 1, "before", (), which, kept, made[:1]) if index else None
                answers.append((after or (number, "parts", (), which, kept, (*made, v)), part))
            return answers
        value, stored = read(f"part{number & 1}")
        if stored != number:
            return []
        reply: Stores = ((f"reply{number & 1}", ((made, value), number)),)
        return [((number + 1, "before", (), which, cache, made[:1]), reply)]

    return Process(f"program {index}", (1, "load", (), 0, (), ()), step)


def model(
    variant: str = "", swaps: int = 2, messages: int = 3, triton: bool = False
) -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"atomic pending": (), "atomic promised": (0, 0)}
    for s in (0, 1):
        memory |= {f"{name}{s}": ((), 0) for name in ("request", "reply", "message", "part")}
        memory |= {seen(s, b): 0 for b in range(BLOCKS)}
    blocks = [(program if triton else block)(i, messages, variant) for i in range(BLOCKS)]
    return [swapper(swaps, variant), caller(messages, variant, 3 if triton else 2), *blocks], memory
