"""The slots of a loop: one, a list in the model's order, or a dict by the names of its inputs or outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from rtaccel.core.errors import FormatError
from rtaccel.realtime.latest import Latest
from rtaccel.realtime.steps import is_module

Slots = Union[Latest, Sequence[Latest], Mapping[str, Latest]]


def input_slots(op: str, chain: list[Any], given: Slots) -> tuple[list[str] | None, list[Latest]]:
    """(names of the inputs where there are such, slots in the order of the first step's inputs). Raises FormatError for what
    are no slots, and for names that are not those of the step."""
    names = _names(chain[0], "inputs") if chain else None
    return names, _in_order(op, "read", given, names)


def output_slots(op: str, chain: list[Any], given: Slots) -> list[Latest]:
    """Slots in the order of the last step's outputs. Raises FormatError as `input_slots`."""
    return _in_order(op, "write", given, _names(chain[-1], "outputs") if chain else None)


def any_age_of(names: list[str] | None, given: Sequence[str | int]) -> int:
    """A bit for each input whose age does not count. Raises FormatError for an input that there is not."""
    bits = 0
    for one in [given] if isinstance(given, (str, int)) else given:
        known = names or []
        index = known.index(one) if isinstance(one, str) and one in known else one
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 16:
            wanted = ", ".join(known) or "an index: the first step has no names"
            raise FormatError("Loop", f"any_age={one!r}", wanted, "Name inputs of the model.")
        bits |= 1 << index
    return bits


def _names(step: Any, side: str) -> list[str] | None:
    edges = getattr(step, side, None) if hasattr(step, "loop_step") else None
    if edges is not None:
        return [name for name, _, _ in edges]
    if is_module(step):
        from rtaccel.realtime import compiled_step

        if isinstance(step, compiled_step.CompiledModel):
            return compiled_step.input_names(step) if side == "inputs" else compiled_step.output_names(step)
    return None


def _in_order(op: str, what: str, given: Any, names: list[str] | None) -> list[Latest]:
    if isinstance(given, Latest):
        return [given]
    if isinstance(given, Mapping):
        if names is None:
            raise FormatError(op, f"{what} by name for a step without names", "a list of slots", "Pass them in order.")
        if set(given) != set(names):
            raise FormatError(op, f"{what}={sorted(map(str, given))}", f"slots for {names}", "Pass one for each name.")
        slots = [given[name] for name in names]
    else:
        slots = list(given) if isinstance(given, (list, tuple)) else [given]
    bad = [type(slot).__name__ for slot in slots if not isinstance(slot, Latest)]
    if bad or not slots:
        raise FormatError(op, f"{what}={', '.join(bad) or 'nothing'}", "an rt.Latest, or several", "Make a slot.")
    return slots
