"""A host that sends messages and one kernel that answers: words of payload and number in two slots, no fence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

MESSAGES, WORDS = 3, 2
VARIANTS = ("", "number apart", "first word decides", "host does not wait", "old words", "abort is not looked at")
"""What is left out. "" is the protocol. "old words": the mailbox of a kernel that ended is not cleared for the next one."""


def payload(message: int, word: int) -> str:
    return f"{message}.{word}"


def host(variant: str, abort_after: int | None) -> Process:
    """Local: (message, replies that came of it); behind the last it asks the kernel to end and waits for its word."""
    last = MESSAGES if abort_after is None else abort_after

    def send(message: int) -> Stores:
        slot = message & 1
        words = tuple((f"request{slot}.{w}", (payload(message, w), message)) for w in range(WORDS))
        return (*words, ("count", message)) if variant == "number apart" else words

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        message, came = local
        if message == "ended":
            return None
        if message == "ending":
            return [(("ended", ()), ())] if read("state") else []
        if message == 0:
            return [((1, ()), send(1))] if last else [(("ending", ()), (("abort", 1),))]
        wanted = [w for w in range(WORDS) if w not in came and (variant != "host does not wait" or message == last)]
        if not wanted:
            if message == last:
                return [(("ending", ()), (("abort", 1),))]
            return [((message + 1, ()), send(message + 1))]
        found = []
        for w in wanted:
            value, number = read(f"reply{message & 1}.{w}")
            if number == message:
                if value != f"answer to {message}":
                    raise Violation(f"the host takes {value!r} for the answer to {message}")
                found.append(((message, (*came, w)), ()))
        return found

    return Process("host", (0, ()), step)


def kernel(variant: str) -> Process:
    """Local: (message it waits for, words that came of it). Each word is polled by a thread of its own; the block goes on when
    all are there. Asked to end it ends where it waits."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        message, came = local
        if message == "ended":
            return None
        found: list[tuple[Local, Stores]] = []
        if read("abort") and variant != "abort is not looked at":
            found.append((("ended", ()), (("state", 2),)))
        have = dict(came)
        for w in range(WORDS):
            if w in have:
                continue
            value, number = read(f"request{message & 1}.{w}")
            there = number == message
            if variant == "number apart":
                there = read("count") == message
            if variant == "first word decides":
                there = 0 in have or (w == 0 and there)
            if there:
                found.append(((message, tuple(sorted({**have, w: value}.items()))), ()))
        if len(have) == WORDS:
            for w, value in have.items():
                if value != payload(message, w):
                    raise Violation(f"the kernel takes {value!r} for word {w} of message {message}")
            reply = tuple((f"reply{message & 1}.{w}", (f"answer to {message}", message)) for w in range(WORDS))
            return [((message + 1, ()), reply)]
        return found

    return Process("kernel", (1, ()), step)


def model(variant: str = "", abort_after: int | None = None) -> tuple[list[Process], dict[str, Any]]:
    """abort_after: the host asks the kernel to end behind so many messages, while it waits for another."""
    memory: dict[str, Any] = {"abort": 0, "state": 0, "count": 0}
    for slot in (0, 1):
        for w in range(WORDS):
            number = (
                2 - slot if variant == "old words" else 0
            )  # those of an earlier run, whose last messages were 1 and 2
            memory[f"request{slot}.{w}"] = memory[f"reply{slot}.{w}"] = ("an older one", number)
    return [host(variant, abort_after), kernel(variant)], memory
