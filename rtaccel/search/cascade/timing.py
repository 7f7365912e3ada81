"""Times of stages and of whole paths, taken by the native clock."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from rtaccel.search.cascade.stages import Stages, plan_of

ROUNDS = 20
"""Of calls of each stage in turn: a disturbance of the machine falls on all of them."""

CALLS = 20
"""Of one stage in a round."""

FOREVER = 1 << 62


@contextmanager
def kept_past(stages: Stages) -> Iterator[None]:
    """What runs inside leaves the streams as they were."""
    plans = [plan_of(model) for model in stages.all if model._options.states is not None]
    past = [plan.save_state() for plan in plans]
    try:
        yield
    finally:
        for plan, state in zip(plans, past):
            plan.load_state(state)


def timed(call: Any, count: int) -> np.ndarray:
    """ns of each of so many calls of something bound."""
    samples = array("q", bytes(8 * count))
    call.time(samples, 0, count, FOREVER)
    return np.array(samples)


def stage_times(stages: Stages, x: Tensor) -> list[np.ndarray]:
    """ns of calls of each stage (and its head) alone for these rows; the stages take turns."""
    with kept_past(stages):
        calls: list[list[Callable[[], None]]] = []
        for index, model in enumerate(stages.models):
            y = model(x)
            bound = [model.bind(x, out=y)]
            if stages.heads:
                bound.append(stages.heads[index].bind(y, out=stages.heads[index](y)))
                x = y
            calls.append(bound)
        found: list[list[np.ndarray]] = [[] for _ in calls]
        for turn in range(ROUNDS + 1):
            for index, bound in enumerate(calls):
                ns = sum(timed(one, CALLS) for one in bound)
                if turn:  # the first one warms up
                    found[index].append(np.asarray(ns))
    return [np.concatenate(parts) for parts in found]
