"""A layer's plans, packed from its numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_streams import on_gpu_of
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.kernels._common.activations import ACTIVATIONS
from rtaccel.nn.check import check_input, dense, describe
from rtaccel.nn.params.linear import LinearParams
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import Executable, plan_group

MAX_RANK = 8
"""Most dimensions of a tensor that a native plan takes; inputs with more are flattened."""


class Packed:
    """A layer's plans, one for each number of dimensions it has been called with; made on first use.

    Raises what `LinearParams.validate` raises. Later changes of the tensors it was made from are not seen.
    """

    def __init__(self, op: str, params: LinearParams, activation: str = "none", parameter: float = 0.0) -> None:
        if activation not in ACTIVATIONS:
            raise UnsupportedProblem(op, repr(activation), "one of " + ", ".join(ACTIVATIONS), "Apply it afterwards.")
        params.validate(op)
        self._op, self._params, self._activation, self._parameter = op, params.detached(), activation, parameter
        self._plans: dict[int, Executable] = {}
        self.choices: list[Choice] = []
        self.notes: list[str] = []

    @property
    def ranks(self) -> list[int]:
        return list(self._plans)

    def plan(self, rank: int, rows: int = 1) -> Executable:
        found = self._plans.get(rank)
        if found is None:
            with (
                on_gpu_of(self._params.weight),
                torch.device("cpu"),
            ):  # the numbers that are lowered are the same whatever torch's default device is
                group = self._params.group(rank - 1, self._activation, self._parameter)
                device = self._params.weight.device.type
                group, self.notes = self._params.chosen(group, max(rows, 1), device)
                found, self.choices = plan_group(group, max(rows, 1), device)
            self._plans[rank] = found
        return found

    def compute(self, x: Any) -> Tensor:
        """y float32 [..., N] of any x float32 [..., K], copied first where it is strided, expanded or misaligned."""
        size = self._params.size
        check_input(self._op, x, size.k, self._params.weight.device)
        if x.dim() > MAX_RANK:
            return self.compute(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], size.n)
        if x.numel() and not x.data_ptr():
            raise ShapeError(
                self._op, f"{describe(x)} without memory", "a tensor with numbers", "Fill its storage again."
            )
        plan = self.plan(x.dim(), x.shape[:-1].numel())
        result = plan.call((x,)) if x.is_contiguous() and not x.is_neg() else None
        if result is None:
            result = plan.call((dense(x),))
        if not isinstance(result, Tensor):
            raise UnsupportedProblem(self._op, describe(x), "a plain tensor", "Pass x.clone().")
        return result
