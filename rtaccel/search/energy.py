"""Joules of a call: from a counter where there is one, else from a model of what the kernels move and do.

The model: E = t * P + sum over stages of (bytes * e_level + operations * e_op). P is the power of a core that waits for nothing;
e_level is by the smallest cache that holds the stage's bytes. Coefficients are orders of magnitude for a processor of 5 to 10 nm,
from M. Horowitz, "Computing's energy problem", ISSCC 2014, scaled; they rank plans and prove nothing.
"""

from __future__ import annotations

from typing import Any

from rtaccel.core.registry import operator
from rtaccel.measure.energy import MIN_SECONDS, find_counter, measure_energy
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.cascade import Cascade

CORE_WATTS = 4.0
"""P: of one core at work, without its share of the rest of the processor."""

LEVELS = ((32 << 10, 1e-12), (1 << 20, 4e-12), (32 << 20, 15e-12))
"""(bytes that a cache holds, joules for a byte of it): of the first, second and third level."""

MEMORY = 100e-12
"""Joules for a byte of memory."""

OPERATION = {"int8": 0.3e-12, "float32": 2e-12}
"""Joules for an operation, by what the stage multiplies."""


def joules_of(model: CompiledModel | Cascade, call: Any, us: float, seconds: float) -> tuple[float | None, bool]:
    """Joules of one call, and whether they are from the model. A counter needs a window of two seconds; with less time left the
    model stands in."""
    if not isinstance(find_counter("cpu"), str) and seconds >= 2.5 * MIN_SECONDS:
        found = measure_energy(call, (), MIN_SECONDS)
        if found.joules_per_call is not None:
            above = found.joules_above_idle
            return (above if above is not None and above > 0 else found.joules_per_call), False
    return modeled_joules(model, us), True


def modeled_joules(model: CompiledModel | Cascade, us: float) -> float:
    """By the model above, of a call that takes so many microseconds; of a cascade, of one through all stages."""
    total = us * 1e-6 * CORE_WATTS
    models = (model,) if isinstance(model, CompiledModel) else model._stages.all
    for step in (step for one in models for step in one._executor.steps):
        for choice in step.choices:
            cost = operator(choice.stage.op).cost(choice.problem)
            level = next((e for size, e in LEVELS if cost.bytes <= size), MEMORY)
            kind = "int8" if choice.problem.in_dtypes[0] == "int8" else "float32"
            total += cost.bytes * level + cost.flops * OPERATION[kind]
    return total
