"""Warps of a block that poll the mailbox in turn, and the threads that they hand a message on to (_persistent/cuda_poll.h).

Two warps look, two others work: the first of these answers, the second may be late with what it read. What a warp hands on
lies in the block's memory; the barrier counts who comes, whoever it is, and the warp that hands on does not wait there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation
from tests.gpu.protocols.mailbox import payload

MESSAGES, WORDS, POLLERS, WORKERS = 3, 2, 2, 2
VARIANTS = (
    "",
    "one place",
    "all who see it hand it on",
    "a claim in two steps",
    "it comes before it has written",
    "first word decides",
    "others do not hear of the end",
    "the end does not wait for the block",
)
END = "end"


def host(abort_after: int, waits: bool) -> Process:
    """Local: (message whose answer it waits for,). Behind `abort_after` it asks for the end. waits: for that answer first."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        (message,) = local
        if message is None:
            return None
        if message and (waits or message < abort_after):
            answer, number = read(f"reply{message & 1}")
            if number != message:
                return []
            if answer != message:
                raise Violation(f"the host takes the answer to {answer} for that to {message}")
        if message == abort_after:
            return [((None,), (("abort", 1),))]
        words = tuple((f"request{(message + 1) & 1}.{w}", (payload(message + 1, w), message + 1)) for w in range(WORDS))
        return [((message + 1,), words)]

    return Process("host", (0,), step)


def place(number: int, variant: str) -> int:
    return 0 if variant == "one place" else number & 1


def handed_on(number: int, words: tuple[str, ...], variant: str) -> Stores:
    at = place(number, variant)
    return (*((f"x{at}.{w}", value) for w, value in enumerate(words)), (f"header{at}", END if not words else number))


def come(read: Read) -> Stores:
    """One more at the barrier: the last of three opens it."""
    came, opened = read("atomic barrier")
    return (("atomic barrier", (0, opened + 1) if came == WORKERS else (came + 1, opened)),)


def poller(index: int, variant: str) -> Process:
    """Local: (number it waits for, what it does, words of the look under way, those that it hands on)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, look, words = local
        if what == "ended":
            return None
        if what == "look":
            if read("ended") and variant != "others do not hear of the end":
                return [((0, "ended", (), ()), ())]
            number = max(number, read("atomic taken") + 1)
            # A look that does not even find the first word changes nothing: left out, so that a warp that looks for ever is one
            # that waits.
            found: list[tuple[Local, Stores]] = []
            if read(f"request{number & 1}.0")[1] == number:
                found.append(((number, 0, (), ()), ()))
            wanted = variant == "the end does not wait for the block" or read("wanted") == number
            if read("abort") and wanted:
                found.append(((number, "claim", (), ()), ()))
            return found
        if what in range(WORDS):
            look = (*look, read(f"request{number & 1}.{what}"))
            if what + 1 < WORDS:
                return [((number, what + 1, look, ()), ())]
            seen = look[:1] if variant == "first word decides" else look
            if any(stored != number for _, stored in seen):
                return [((number, "look", (), ()), ())]
            return [((number, "claim", (), tuple(value for value, _ in look)), ())]
        if what == "claim":
            if variant == "all who see it hand it on":
                return [((number, "put", (), words), (("atomic taken", max(number, read("atomic taken"))),))]
            if read("atomic taken") != number - 1:
                return [((number, "look", (), ()), ())]
            if variant == "a claim in two steps":
                return [((number, "claimed", (), words), ())]
            return [((number, "put", (), words), (("atomic taken", number),))]
        if what == "claimed":
            return [((number, "put", (), words), (("atomic taken", number),))]
        if what == "put":
            ended: Stores = () if words else (("ended", 1),)
            return [((number, "come", (), words), (*ended, *handed_on(number, words, variant)))]
        if variant != "it comes before it has written" and any(
            read(word) != value for word, value in handed_on(number, words, variant)
        ):
            return []
        return [((number + 1, "look" if words else "ended", (), ()), come(read))]

    return Process(f"poller {index}", (1, "look", (), ()), step)


def worker(index: int, variant: str) -> Process:
    """Local: (number, what it does, how often the barrier had opened when it came)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, opened = local
        if what == "ended":
            return None
        if what == "come":
            said: Stores = (("wanted", number),) if index == 0 else ()
            return [((number, "wait", read("atomic barrier")[1]), (*said, *come(read)))]
        if what == "wait":
            return [((number, "header", 0), ())] if read("atomic barrier")[1] > opened else []
        at = place(number, variant)
        if what == "header":
            header = read(f"header{at}")
            if header == END:
                return [((0, "ended", 0), ())]
            if header != number:
                raise Violation(f"worker {index} takes {header!r} for the header of message {number}")
            return [((number, "x", 0), ())]
        for w in range(WORDS):
            if read(f"x{at}.{w}") != payload(number, w):
                raise Violation(f"worker {index} computes message {number} with {read(f'x{at}.{w}')!r}")
        reply: Stores = ((f"reply{number & 1}", (number, number)),) if index == 0 else ()
        return [((number + 1, "come", 0), reply)]

    return Process(f"worker {index}", (1, "come", 0), step)


def model(variant: str = "", abort_after: int = MESSAGES, waits: bool = True) -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"abort": 0, "ended": 0, "wanted": 0, "atomic taken": 0, "atomic barrier": (0, 0)}
    for s in (0, 1):
        memory |= {f"reply{s}": ("nothing", 0), f"header{s}": "nothing"}
        memory |= {f"request{s}.{w}": ("nothing", 0) for w in range(WORDS)} | {f"x{s}.{w}": "" for w in range(WORDS)}
    warps = [poller(i, variant) for i in range(POLLERS)] + [worker(i, variant) for i in range(WORKERS)]
    return [host(abort_after, waits), *warps], memory
