"""Every order of the steps of some processes on shared memory, as relaxed as the machines are.

A word is stored whole. Stores of a process to different words become visible in any order, those to one word in theirs; until
then nobody sees them. What an atomic operation writes (its word begins with "atomic ") is visible at once. So a search over
states visits everything that PTX's relaxed loads and stores of whole words, or those of a C++ atomic, can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ATOMIC = "atomic "
Local = tuple[Any, ...]
Stores = tuple[tuple[str, Any], ...]
Read = Callable[[str], Any]
Step = Callable[[Local, Read], "Iterable[tuple[Local, Stores]] | None"]
"""What a process can do next: its local state behind each choice, and what it stores. Nothing: it waits. None: it has ended."""


class Violation(Exception):
    """A step that sees what it must never see."""


@dataclass(frozen=True)
class Process:
    name: str
    start: Local
    step: Step


@dataclass(frozen=True)
class Found:
    """states: how many there are. wrong: what happened, or "" where nothing did. trace: the steps that lead there."""

    states: int
    wrong: str = ""
    trace: tuple[str, ...] = ()


State = tuple[tuple[Local, ...], tuple[tuple[str, Any], ...], tuple[Stores, ...]]


def explore(processes: list[Process], memory: Mapping[str, Any], most: int = 2_000_000) -> Found:
    """Visits every state, the shortest ways first. Ends at the first violation, or where all wait and not all have ended."""
    first: State = (tuple(p.start for p in processes), tuple(sorted(memory.items())), tuple(() for _ in processes))
    came: dict[State, tuple[State, str] | None] = {first: None}
    level = [first]
    while level:
        following: list[State] = []
        for state in level:
            try:
                found, ended = _next(processes, state)
            except Violation as violation:
                return Found(len(came), str(violation), _trace(came, state))
            if not found and not ended:
                return Found(len(came), "all wait for each other", _trace(came, state))
            for label, new in found:
                if new not in came:
                    came[new] = (state, label)
                    following.append(new)
            if len(came) > most:
                raise AssertionError(f"more than {most} states: make the model smaller")
        level = following
    return Found(len(came))


def _next(processes: list[Process], state: State) -> tuple[list[tuple[str, State]], bool]:
    """(label, state) of each possible step; whether all processes have ended, with all of their stores visible."""
    locals_, memory, buffers = state
    words, found, ended = dict(memory), [], not any(buffers)
    for i, process in enumerate(processes):
        for at, (word, value) in enumerate(buffers[i]):
            if all(other != word for other, _ in buffers[i][:at]):  # stores to one word keep their order
                left = (*buffers[i][:at], *buffers[i][at + 1 :])
                seen = tuple(sorted({**words, word: value}.items()))
                found.append((f"{word} = {value}", (locals_, seen, _with(buffers, i, left))))
        choices = process.step(locals_[i], words.__getitem__)
        if choices is None:
            continue
        ended = False
        for local, stores in choices:
            now = {word: value for word, value in stores if word.startswith(ATOMIC)}
            seen = tuple(sorted({**words, **now}.items())) if now else memory
            pending = _with(buffers, i, (*buffers[i], *(s for s in stores if s[0] not in now)))
            found.append((f"{process.name}: {local}", (_with(locals_, i, local), seen, pending)))
    return found, ended


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels: list[str] = []
    step = came[state]
    while step is not None:
        labels.append(step[1])
        step = came[step[0]]
    return tuple(reversed(labels))
