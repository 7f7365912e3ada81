"""A host and several blocks of one persistent kernel: the first block reads the mailbox and passes the message on.

A message is a time step, or asks for the states ("save") or brings them ("load"). A time step: every block makes its part of h
from x and all of the last h, publishes it, and the first answers. The other two go in step as well: every block publishes what it
has, and nobody takes the next message before he has all parts of this one. That is also why a message could do with one slot.

mapped: the host writes into the card's memory, and every block reads the mailbox there. The kernel then ends by a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

VARIANTS = (
    "",
    "states are not in step",
    "the answer is early",
    "one slot for parts",
    "the first alone is told to end",
)
"""What is left out. "the answer is early": the first block answers before it has the others' parts, and does not wait for them
either. A host that has all of its answers never sees it; the next messages do."""


MAPPED_VARIANTS = ("", "each looks at a word for the end", "states are not in step", "one slot for parts")
"""Of that. A block that has taken a message while another ended waits for its part for ever."""


def h_of(number: int, block: int) -> str:
    return f"h{number}.{block}"


def host(messages: Sequence[str], variant: str, mapped: bool, hurries: bool) -> Process:
    """Local: (message whose answer it waits for,); then it asks the kernel to end. hurries: beside the last message."""

    def send(number: int) -> Stores:
        if number > len(messages):
            by_word = not mapped or variant == "each looks at a word for the end"
            return (("abort", 1),) if by_word else ((f"request{number & 1}", ("end", number)),)
        return ((f"request{number & 1}", (messages[number - 1], number)),)

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        (number,) = local
        if number > len(messages):
            return None
        if number == 0:
            return [((1,), send(1))]
        if hurries and number == len(messages):
            return [((number + 1,), send(number + 1))]
        answer, stored = read(f"reply{number & 1}")
        if stored != number:
            return []
        if answer != messages[number - 1]:
            raise Violation(f"the host takes the answer {answer!r} to {messages[number - 1]!r}")
        return [((number + 1,), send(number + 1))]

    return Process("host", (0,), step)


def block(index: int, blocks: int, variant: str, mapped: bool) -> Process:
    """Local: (number, its message or None, parts of h of this number that came)."""

    def part(number: int, of: int) -> str:
        return f"part{0 if variant == 'one slot for parts' else number & 1}.{of}"

    def taken(number: int, message: str) -> list[tuple[Local, Stores]]:
        passed: Stores = ()
        if index == 0 and not mapped and not (message == "end" and variant == "the first alone is told to end"):
            passed = ((f"message{number & 1}", (message, number)),)
        if message == "end":
            return [((number, "end", ()), passed)]
        if message != "step" and variant == "states are not in step":
            answer: Stores = ((f"reply{number & 1}", (message, number)),) if index == 0 else ()
            return [((number + 1, None, ()), (*passed, *answer))]
        own: Stores = ((part(number, index), (h_of(number, index), number)),)
        early = variant == "the answer is early" and index == 0
        if early:
            return [((number + 1, None, ()), (*passed, *own, (f"reply{number & 1}", (message, number))))]
        return [((number, message, ()), (*passed, *own))]

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, message, came = local
        if message == "end":
            return None
        if message is None:
            reads = mapped or index == 0
            given, stored = read(f"request{number & 1}" if reads else f"message{number & 1}")
            found = taken(number, given) if stored == number else []
            return [*found, *(taken(number, "end") if reads and read("abort") else [])]
        missing = [b for b in range(blocks) if b not in came]
        if not missing:
            answer: Stores = ((f"reply{number & 1}", (message, number)),) if index == 0 else ()
            return [((number + 1, None, ()), answer)]
        found = []
        for b in missing:
            value, stored = read(part(number, b))
            if stored == number:
                if value != h_of(number, b):
                    raise Violation(f"block {index} takes {value!r} for the part of block {b} of number {number}")
                found.append(((number, message, tuple(sorted((*came, b)))), ()))
        return found

    return Process(f"block {index}", (1, None, ()), step)


def model(
    blocks: int, messages: Sequence[str], variant: str = "", mapped: bool = False, hurries: bool = False
) -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"abort": 0}
    for s in (0, 1):
        memory |= {f"{name}{s}": ("nothing", 0) for name in ("request", "reply", "message")}
        memory |= {f"part{s}.{b}": ("nothing", 0) for b in range(blocks)}
    blocks_of = (block(i, blocks, variant, mapped) for i in range(blocks))
    return [host(messages, variant, mapped, hurries), *blocks_of], memory
