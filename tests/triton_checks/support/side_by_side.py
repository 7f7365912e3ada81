"""Programs that wait for each other, in the interpreter: a launch in which every program is a process of its own.

The interpreter runs the programs of a launch one after another, and the first would wait for ever for the second. Here a launch
forks one process a program; they share the memory of all tensors, and see its words change under them, as on a card.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from triton.runtime import interpreter

from rtaccel.kernels._gpu.triton_spec import Specialisation

SECONDS = 60


def _shared(t: Tensor) -> Tensor:
    return t if t.is_shared() else torch.empty(t.shape, dtype=t.dtype).share_memory_().copy_(t)


def _play(spec: Specialisation, program: int, grid: tuple[int, ...], arguments: dict[str, Any]) -> int:
    """One program, in a forked process; its exit status."""
    builder = interpreter.interpreter_builder

    def place(x: int, y: int, z: int) -> None:
        builder.grid_idx = (x + program, y, z)

    builder.set_grid_idx = place
    try:
        spec.kernel[(1, *grid[1:])](**arguments, **spec.keywords)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(spec: Specialisation, grid: tuple[int, ...], arguments: dict[str, Any]) -> list[int]:
    """Forks a process for each program of the first axis; tensors are to be in shared memory. Their ids."""
    children = []
    for program in range(grid[0]):
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os._exit(_play(spec, program, grid, arguments))
        children.append(child)
    return children


def wait(children: list[int]) -> None:
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * len(children), f"programs ended with {statuses}"


def share(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with every tensor in shared memory, one copy of each."""
    shared = {id(t): _shared(t) for t in arguments.values() if isinstance(t, Tensor)}
    return {n: shared[id(v)] if isinstance(v, Tensor) else v for n, v in arguments.items()}


def bind(spec: Specialisation) -> Callable[..., None]:
    """As triton_launch.bind: launch(grid, **arguments), with the programs of the first axis side by side."""

    def launch(grid: tuple[int, ...], **arguments: Any) -> None:
        given = share(arguments)
        wait(start(spec, grid, given))
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                value.copy_(given[name])

    return launch
