"""A stream, or a model with state, of a GPU as one of the CPU: the same program, and its past in the form of a native plan.

So a file that is saved of it goes on where it stood."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rtaccel.runtime.state.native_past import ENDING, saved

if TYPE_CHECKING:
    from rtaccel.runtime.stateful.model import StatefulModel
    from rtaccel.runtime.stream import StreamModel


def on_cpu(live: StreamModel | StatefulModel, states: bool) -> StreamModel | StatefulModel:
    """A stream on the CPU with the weights of one on a GPU. states: and its past."""
    options = replace(live._options, mode=None, device="cpu", backend=None)
    made = type(live)(live._program, options, live._argument_names)
    made.note_verified(live._verified)
    plan = live._plan()
    if states and plan.saves_as_native:
        made._plan().load_state(plan.save_state())
    elif states:
        assert options.plan_states is not None
        made._plan().load_state(as_native(plan.save_state(), plan.state_rows, options.plan_states.memory))
    return made


def as_native(past: bytes, rows: int, memory: int) -> bytes:
    """What a native plan saves. past: float32, so many rows of units: h of each layer, then c. memory: how long a NaN stays, as a
    mark of a corrupted stream, whose states are zeros."""
    values = torch.frombuffer(bytearray(past), dtype=torch.float32).view(rows, -1)
    corrupted = not bool(torch.isfinite(values).all())
    return saved(torch.zeros_like(values) if corrupted else values) + ENDING.pack(memory if corrupted else 0, 0, 0)
