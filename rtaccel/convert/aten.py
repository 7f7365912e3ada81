"""torch's operators by name, also those that a release of torch does not have.

torch takes operators out: 2.15 has neither `qr` nor `cholesky`. A rule that named one would fail where it is imported, and no
model at all would compile. Here such a name is an operator that no graph has.
"""

from __future__ import annotations

from typing import Any

import torch


class Absent:
    """An operator or an overload that this torch does not have. It is equal to itself alone."""

    def __init__(self, name: str) -> None:
        self._absent_name = name

    def __getattr__(self, overload: str) -> Absent:
        if overload.startswith("__"):
            raise AttributeError(overload)
        return Absent(f"{self._absent_name}.{overload}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"torch {torch.__version__} has no {self._absent_name}")

    def __repr__(self) -> str:
        return f"{self._absent_name}, which this torch does not have"


class _Operators:
    def __getattr__(self, name: str) -> Any:
        found = getattr(torch.ops.aten, name, None)
        if found is None:
            found = Absent(f"aten.{name}")
        setattr(self, name, found)
        return found


aten = _Operators()

_UNTAGGED = (
    aten.nonzero_numpy.default,
    aten.where.default,
    aten.tensor_split.tensor_indices_or_sections,
    aten.repeat_interleave.self_Tensor,
)


def sized_by_numbers(target: Any) -> bool:
    """Whether the numbers of its operands say how large the result of an operator is. torch tags those that it does not take
    apart itself."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return torch.Tag.dynamic_output_shape in target.tags or target in _UNTAGGED
