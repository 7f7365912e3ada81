"""The command line.

    python -m bench.operators                     # all, the slowest beside eager PyTorch first
    python -m bench.operators 'sort*' '*norm*'    # by name; shell patterns
    python -m bench.operators --out ops.json

One thread. Calls of both go in turn, rtaccel's by `bind`; a figure is the lowest median of a round. Below 1.00 eager is faster.
"""

from __future__ import annotations

import argparse
import json
import warnings
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from bench.operators import calls, layers
from bench.operators.calls import Operation
from rtaccel.core.errors import RtaccelError
from rtaccel.measure.interleave import interleave
from rtaccel.measure.machine.environment import environment

ROUNDS, ROUND_US, MAX_CALLS = 8, 2_000.0, 200


class Function(nn.Module):
    """Of one tensor. With `*inputs` torch.export would fix the batch."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class FunctionOfTwo(Function):
    def forward(self, x: Any, y: Any) -> Any:
        return self.function(x, y)


class FunctionOfThree(Function):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.function(x, y, z)


def measured(operation: Operation) -> dict[str, Any]:
    given = operation.function
    model = (
        given
        if isinstance(given, nn.Module)
        else (Function, FunctionOfTwo, FunctionOfThree)[len(operation.shapes) - 1](given)
    ).eval()
    torch.manual_seed(0)
    inputs = tuple(torch.randn(shape) for shape in operation.shapes)
    out = pytree.tree_map(lambda t: torch.empty(t.shape, dtype=t.dtype), model(*inputs))
    try:
        fast = rt.compile(model, inputs)
        step = fast.bind(*inputs, out=out)
    except RtaccelError as error:
        return {"name": operation.name, "refused": str(error)}
    both = {"rtaccel": step, "eager": lambda: model(*inputs)}
    once = interleave(both, rounds=2, calls_per_round=2).median_us("eager")
    count = max(2, min(MAX_CALLS, int(ROUND_US / once)))
    rounds = [interleave(both, rounds=1, calls_per_round=count) for _ in range(ROUNDS)]
    ours, eager = (min(r.median_us(name) for r in rounds) for name in both)
    return {"name": operation.name, "rtaccel_us": ours, "eager_us": eager, "times": eager / ours}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.operators", description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of operations; shell patterns")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fallbacks, whose times show, and of torch about its own arguments
    every = [o for o in (*calls.operations(), *layers.operations()) if any(fnmatch(o.name, p) for p in chosen.patterns)]
    rows = [measured(operation) for operation in every]
    timed = sorted((row for row in rows if "times" in row), key=lambda row: row["times"])
    print(f"{'times':>7} {'rtaccel us':>11} {'eager us':>11}  operation")
    for row in timed:
        print(f"{row['times']:7.2f} {row['rtaccel_us']:11.2f} {row['eager_us']:11.2f}  {row['name']}")
    for row in rows:
        if "refused" in row:
            print(f"refused: {row['name']}: {row['refused']}")
    if chosen.out:
        chosen.out.write_text(
            json.dumps({"environment": environment(), "operations": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
