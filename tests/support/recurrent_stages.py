"""Stages of LSTM and GRU from torch's modules, and what the modules say in float64, in the layout of a stage."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.stage import Stage, Value

Recurrent = nn.LSTM | nn.GRU

SHAPES: dict[str, dict[str, Any]] = {
    "one of each": {"inputs": 1, "hidden": 1, "time": 1},
    "a step": {"inputs": 7, "hidden": 19, "time": 1, "num_layers": 2},
    "a window": {"inputs": 5, "hidden": 17, "time": 9},
    "three layers": {"inputs": 3, "hidden": 8, "time": 4, "batch": 2, "num_layers": 3},
    "both directions": {"inputs": 6, "hidden": 11, "time": 5, "batch": 3, "num_layers": 2, "bidirectional": True},
    "batch first": {"inputs": 4, "hidden": 13, "time": 6, "batch": 3, "batch_first": True, "bidirectional": True},
    "no bias": {"inputs": 4, "hidden": 9, "time": 3, "bias": False},
    "newest output": {"inputs": 5, "hidden": 10, "time": 4, "batch": 2, "batch_first": True, "last_only": True},
}


def made(
    kind: type[Recurrent], inputs: int, hidden: int, time: int, batch: int = 1, states: bool = True,
    last_only: bool = False, **options: Any,
) -> tuple[Recurrent, Stage]:  # fmt: skip
    """A module of torch with random weights, and the stage of its operator for a window of `time` steps."""
    module = kind(inputs, hidden, **options)
    directions = 2 if module.bidirectional else 1
    names = ({"LSTM": "hc", "GRU": "h"}[kind.__name__]) if states else ""
    rows = module.num_layers * directions * batch
    x = Value("x", inputs, steps=time * batch)
    y = Value("y", directions * hidden, steps=batch if last_only else time * batch)
    attrs = {
        "hidden": hidden, "layers": module.num_layers, "directions": directions, "time": time, "batch": batch,
        "batch_first": int(module.batch_first), "last_only": int(last_only),
    }  # fmt: skip
    before, after = ([Value(f"{name}{end}", hidden, steps=rows) for name in names] for end in "0n")
    tensors = {name: t.detach().clone() for name, t in module.named_parameters()}
    return module, Stage(kind.__name__.lower(), "r", (x, *before), (y, *after), tensors, attrs)


def inputs_of(stage: Stage, samples: int) -> tuple[Tensor, ...]:
    """Normal numbers; states in -1..1, as a tanh leaves them."""
    shapes = [(samples, *v.shape) for v in stage.inputs]
    return torch.randn(shapes[0]), *(torch.rand(shape) * 2 - 1 for shape in shapes[1:])


def torch_says(module: Recurrent, stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    """float64 outputs of every sample, one call for each."""
    exact, attrs = copy.deepcopy(module).double(), stage.attrs
    sizes = (attrs["batch"], attrs["time"]) if attrs["batch_first"] else (attrs["time"], attrs["batch"])
    rows = []
    for x, *states in zip(*inputs):
        hx = [s.reshape(-1, attrs["batch"], attrs["hidden"]).double() for s in states]
        with torch.no_grad():
            y, after = exact(x.reshape(*sizes, -1).double(), (tuple(hx) if len(hx) > 1 else hx[0]) if hx else None)
        if attrs["last_only"]:
            y = y[:, -1:] if attrs["batch_first"] else y[-1:]
        after = after if isinstance(after, tuple) else (after,)
        found = (y, *after)[: len(stage.outputs)]
        rows.append([t.reshape(v.shape) for t, v in zip(found, stage.outputs)])
    return tuple(torch.stack(part) for part in zip(*rows))
