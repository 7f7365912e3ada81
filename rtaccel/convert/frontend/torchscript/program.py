"""A graph of TorchScript as steps that Python runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Union

from torch import nn

OWNER = -1
"""The place of the module whose program runs: it holds the constants."""


@dataclass(frozen=True)
class Call:
    """One node: `run` of the values at `reads`. where: the line of code that it stands for. scope: dotted name of the module that
    a frozen graph has inlined here."""

    run: Callable[..., Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    where: str = ""
    scope: str = ""


@dataclass(frozen=True)
class Block:
    takes: tuple[int, ...]
    steps: tuple[Step, ...]
    gives: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    condition: int
    yes: Block
    no: Block
    writes: tuple[int, ...]
    where: str = ""


@dataclass(frozen=True)
class Rounds:
    """A loop: at most `most` rounds, while the condition holds. The body takes the number of the round and what is carried, and
    gives the next condition and what is carried on."""

    most: int
    condition: int
    carried: tuple[int, ...]
    body: Block
    writes: tuple[int, ...]
    where: str = ""


Step = Union[Call, Branch, Rounds]


@dataclass(frozen=True)
class Program:
    """A function or method. It never changes, so copies of a module share it."""

    name: str
    body: Block

    def __deepcopy__(self, memo: Any) -> Program:
        return self

    def __call__(self, owner: nn.Module, *values: Any) -> Any:
        held: dict[int, Any] = {OWNER: owner}
        results = _run(self.body, values, held)
        return results[0] if len(results) == 1 else tuple(results)


def _run(block: Block, values: Any, held: dict[int, Any]) -> list[Any]:
    held.update(zip(block.takes, values))
    for step in block.steps:
        if isinstance(step, Call):
            _call(step, held)
        elif isinstance(step, Branch):
            results = _run(step.yes if held[step.condition] else step.no, (), held)
            held.update(zip(step.writes, results))
        else:
            _rounds(step, held)
    return [held[place] for place in block.gives]


def _call(step: Call, held: dict[int, Any]) -> None:
    values = [held[place] for place in step.reads]
    place = held[OWNER].get_submodule(step.scope) if step.scope else None
    result = step.run(*values) if place is None else place(step.run, *values)
    if len(step.writes) == 1:
        held[step.writes[0]] = result
    elif step.writes:
        held.update(zip(step.writes, result))


def _rounds(step: Rounds, held: dict[int, Any]) -> None:
    most, condition = held[step.most], held[step.condition]
    carried = [held[place] for place in step.carried]
    count = 0
    while condition and count < most:
        condition, *carried = _run(step.body, (count, *carried), held)
        count += 1
    held.update(zip(step.writes, carried))


def line_in(frame: FrameType) -> str:
    """The line of TorchScript that a frame of Python runs; "" for another frame."""
    if frame.f_code is not _call.__code__:
        return ""
    step = frame.f_locals["step"]
    return str(step.where)
