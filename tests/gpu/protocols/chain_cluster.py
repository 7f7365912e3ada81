"""A chain of two layers whose outputs are cut among the blocks of a cluster (mlp/cuda/chain.cu): the first block takes a message
of the host's and passes x on, each stores its part of the first layer into the others' memory, and those that have outputs of
the second answer. The host sends a message when it has all answers of the one before.

Each word has two slots in turn, and a reader waits for its very number. So a block that is late by two messages waits for ever.
What keeps the others from that is its part of the first layer, for which they wait: a block that has none, and does not answer,
is waited for by nobody (`own_of(0)` in mlp/cuda/config.h). One that merely does not answer is right. What a cluster's words need
beside that, at its begin and its end, is in cluster.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores

MESSAGES = 3
VARIANTS = ("", "one slot", "a block without a part of the first layer")
"""What is left out, or done instead. Parts need their two slots. x would do with one: who has given its part has read it."""


def host(answering: tuple[int, ...]) -> Process:
    """Local: (number, whether it was sent)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, sent = local
        if number > MESSAGES:
            return None
        if not sent:
            return [((number, True), ((f"request{number & 1}", number),))]
        return [((number + 1, False), ())] if all(read(f"answer{b}") == number for b in answering) else []

    return Process("host", (1, False), step)


def block(index: int, blocks: int, sharing: range, answering: tuple[int, ...], variant: str) -> Process:
    """Local: (number, what it does, parts that came)."""
    others = [b for b in range(blocks) if b != index]

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, came = local
        if number > MESSAGES:
            return None
        x, part = f"x{number & 1}", f"{0 if variant == 'one slot' else number & 1} of {{}} for {{}}"
        if what == "x":
            if read(f"request{number & 1}" if index == 0 else f"{x} for {index}") != number:
                return []
            passed = tuple((f"{x} for {b}", number) for b in others) if index == 0 else ()
            return [((number, "give", ()), passed)]
        if what == "give":
            given = tuple((part.format(index, b), number) for b in others) if index in sharing else ()
            return [((number, "take", ()), given)]
        missing = [p for p in sharing if p not in (*came, index)]
        if missing:
            there = [p for p in missing if read(part.format(p, index)) == number]
            return [((number, "take", tuple(sorted((*came, p)))), ()) for p in there]
        return [((number + 1, "x", ()), ((f"answer{index}", number),) if index in answering else ())]

    return Process(f"block {index}", (1, "x", ()), step)


def model(blocks: int, variant: str = "", answering: tuple[int, ...] = (0,)) -> tuple[list[Process], dict[str, Any]]:
    """answering: blocks that have outputs of the second layer."""
    sharing = range(blocks - (variant == VARIANTS[-1]))
    memory: dict[str, Any] = {"request0": 0, "request1": 0, **{f"answer{b}": 0 for b in answering}}
    for b in range(blocks):
        memory |= {f"x{s} for {b}": 0 for s in (0, 1)}
        memory |= {f"{s} of {p} for {b}": 0 for s in (0, 1) for p in range(blocks)}
    return [host(answering), *(block(b, blocks, sharing, answering, variant) for b in range(blocks))], memory
