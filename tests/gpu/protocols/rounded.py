"""A host that rounds x to int8 and one kernel that answers: what is not finite is said by a bit of the command word.

A message is a word of four int8 numbers and a command, each with its number, in two slots. int8 has no NaN. So the kernel knows
from the command alone that an answer is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

MESSAGES = 4
FINITE = (True, False, True, True)
"""Of each message, whether x is. The third has the slot of the first; the fourth, that of the one which is not."""

VARIANTS = ("", "bit apart", "bit is only set", "command is not waited for", "word in halves", "kernel looks itself")
"""What is left out. "" is the protocol. "bit apart": in a word without a number. "bit is only set": the command of a finite x
leaves the word as it is but for its number. "word in halves": number and numbers of x are two stores."""

NAN, NUMBERS = "NaN", "numbers"


def host(variant: str) -> Process:
    """Local: the message whose answer it waits for."""

    def send(message: int, read: Read) -> Stores:
        slot, finite = message & 1, FINITE[message - 1]
        x = f"{message} rounded" if finite else "zeros"
        command = 0 if finite else 1
        if variant == "bit is only set":
            command |= read(f"command{slot}")[0]
        stores: Stores = ((f"x{slot}", (x, message)), (f"command{slot}", (command, message)))
        if variant == "word in halves":
            stores = ((f"x{slot}.low", x), (f"x{slot}", ("", message)), stores[1])
        if variant == "bit apart":
            stores = (("nonfinite", command), stores[0], (f"command{slot}", (0, message)))
        return stores

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        (message,) = local
        if message > MESSAGES:
            return None
        if message == 0:
            return [((1,), send(1, read))]
        value, number = read(f"y{message & 1}")
        if number != message:
            return []
        wanted = f"{NUMBERS} of {message}" if FINITE[message - 1] else NAN
        if value != wanted:
            raise Violation(f"the host takes {value!r} for {wanted!r}")
        return [((message + 1,), send(message + 1, read) if message < MESSAGES else ())]

    return Process("host", (0,), step)


def kernel(variant: str) -> Process:
    """Local: (message it waits for, the x and the command that came of it). A thread polls each."""

    def answer(message: int, x: str, command: int, read: Read) -> str:
        bad = bool(command)
        if variant == "bit apart":
            bad = bool(read("nonfinite"))
        if variant == "kernel looks itself":
            bad = x == NAN  # which int8 cannot be
        if bad:
            return NAN
        return f"{NUMBERS} of {message}" if x == f"{message} rounded" else f"{NUMBERS} of {x}"

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        message, x, command = local
        if message > MESSAGES:
            return None
        slot = message & 1
        found: list[tuple[Local, Stores]] = []
        if x is None:
            value, number = read(f"x{slot}")
            if number == message:
                found.append(((message, read(f"x{slot}.low") if variant == "word in halves" else value, command), ()))
        if command is None:
            value, number = read(f"command{slot}")
            if number == message or variant == "command is not waited for":
                found.append(((message, x, value), ()))
        if x is not None and command is not None:
            return [((message + 1, None, None), ((f"y{slot}", (answer(message, x, command, read), message)),))]
        return found

    return Process("kernel", (1, None, None), step)


def model(variant: str = "") -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"nonfinite": 0}
    for slot in (0, 1):
        memory |= {f"x{slot}": ("an older one", 0), f"x{slot}.low": "an older one", f"y{slot}": ("an older one", 0)}
        memory[f"command{slot}"] = (0, 0)
    return [host(variant), kernel(variant)], memory
