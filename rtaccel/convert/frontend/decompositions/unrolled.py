"""A recurrent layer that no operator computes, as its time steps one after the other: LSTM with a projection.

Each step is a product by a parameter and a few elementwise calls, which operators compute. Windows of many steps fall back to
PyTorch: a plan of thousands of stages is no faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

MAX_STEPS = 256
"""Of all layers and directions together."""


def _projected(given: Tensor, states: list[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
    """h and c after a step. given: what the input adds to the gates; own: the parameters of the layer."""
    gates = given + aten.linear.default(states[0], own[1], None)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
    return [aten.linear.default(torch.sigmoid(o) * torch.tanh(c), own[-1], None), c]


def _lstm(x: Tensor, hx: list[Tensor], params: list[Tensor], biased: bool, layers: int, dropout: float, train: bool,
          bidirectional: bool, batch_first: bool) -> list[Tensor]:  # fmt: skip
    """y, then h and c after the last step, [layers * directions, batch, width]."""
    if hx[0].shape[-1] == hx[1].shape[-1]:
        raise NotImplementedError  # there is an operator, which says why it does not take it
    directions, per = 1 + bidirectional, 5 if biased else 3
    x = x.transpose(0, 1) if batch_first else x
    steps = x.shape[0]
    if len(params) != layers * directions * per or steps * layers * directions > MAX_STEPS or x.dim() != 3:
        raise NotImplementedError
    last: list[list[Tensor]] = [[] for _ in hx]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            own = params[index * per : (index + 1) * per]
            given = aten.linear.default(x, own[0], own[2] + own[3] if biased else None)
            kept = [s.select(0, index) for s in hx]
            made: list[Tensor] = [x] * steps
            for t in range(steps - 1, -1, -1) if direction else range(steps):
                kept = _projected(given.select(0, t), kept, own)
                made[t] = kept[0]
            outputs.append(torch.stack(made, 0))
            for target, state in zip(last, kept):
                target.append(state)
        x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    return [x.transpose(0, 1) if batch_first else x, *(torch.stack(states, 0) for states in last)]


UNROLLED: dict[Any, Callable[..., Any]] = {aten.lstm.input: _lstm}
