"""What is said of a graph with something in it that is not read."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

from rtaccel.convert.frontend.torchscript.program import Block, Call, Program
from rtaccel.core.errors import UnsupportedProblem


def refuse(what: str, where: str = "", *values: Any) -> NoReturn:
    """Raises UnsupportedProblem. where: a line of code."""
    raise UnsupportedProblem(
        "compile",
        f"a module of TorchScript with {what}{f' ({where})' if where else ''}",
        "operators, control flow, and tensors, numbers and modules as attributes",
        "Compile the Python model that it was made of.",
    )


def refusing(name: str, what: str) -> Program:
    """A program that does nothing else."""
    return Program(name, Block((), (Call(partial(refuse, what, ""), (), (0,)),), (0,)))
