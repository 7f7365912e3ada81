"""Copies that a native plan does not make: columns between two stages are seen where they lie (kernels/_core/plan_memory.cc)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Role
from rtaccel.plan.choose import Choice

LINE = 64
"""Bytes; columns that begin within one are copied."""
_BYTES = {"float32": 4, "int64": 8}


def seen_in_place(choices: Iterable[Choice], outputs: Collection[str]) -> set[str]:
    """The results of stages of a native plan, given in its order, that copy nothing. outputs: names of the plan's results."""
    made: set[str] = set()  # so far, by a stage
    found = set()
    for stage in (choice.stage for choice in choices):
        if _is_part(stage) and stage.inputs[0].name in made - {*outputs} and stage.outputs[0].name not in outputs:
            found.add(stage.outputs[0].name)
        made |= {value.name for value in stage.outputs}
    return found


def _is_part(stage: Stage) -> bool:
    """Whether the result is a run of the columns of the only input, from a line of the cache on."""
    index = stage.attrs.get("index")
    if operator(stage.op).role is not Role.GATHER or index is None or len(stage.inputs) != 1 or len(stage.outputs) != 1:
        return False
    x, y = stage.inputs[0], stage.outputs[0]
    if x.steps != y.steps or index[0] + y.width > x.width:
        return False
    found = np.arange(x.steps)[:, None] * x.width + index[0] + np.arange(y.width)
    return index[0] * _BYTES.get(x.dtype, 0) % LINE == 0 and bool(np.array_equal(found.reshape(-1), np.asarray(index)))
