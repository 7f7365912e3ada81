"""A model of several groups with kernels of the user's between them, as one plan: what a graph is captured of.

Only what launches and never waits is taken: groups on a GPU, and `rt.raw_kernel`. A call that falls back to PyTorch may look at
numbers, so a model with one is launched step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_errors import translated
from rtaccel.backends.cuda_streams import NO_ORDER, Order, StreamOrder, current_index
from rtaccel.convert.passes.program import Argument, Program
from rtaccel.core.batch import BatchRange
from rtaccel.core.stage import GraphIO, Value
from rtaccel.plan.group import StagedPlan, Subgraph


@dataclass(frozen=True)
class Edge:
    """What a plan of a whole program is made for: so many samples, on a device."""

    samples: int
    batch: BatchRange
    device: str


class JoinedPlan(StagedPlan):
    """results: tensors in, tensors out, whatever is between them."""

    def __init__(
        self, group: Subgraph, results: Callable[[Sequence[Any]], list[Any]], edge: Edge, kept: tuple[Tensor, ...] = ()
    ) -> None:
        self.kept = kept
        self._group, self._results, self._batch, self._device = group, results, edge.batch, edge.device
        self._order: Order = StreamOrder() if edge.device == "cuda" else NO_ORDER
        self._index = current_index(edge.device)

    def call(self, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...] | None:
        """None where the inputs do not fit as they lie."""
        if not self._fits(inputs, self._group.inputs):
            return None
        with translated("call"), self._order:
            found = tuple(y.contiguous() for y in self._results(inputs))
        return found[0] if len(found) == 1 else found

    call_flat = call


def joined(
    program: Program, results: Callable[[Sequence[Any]], list[Any]], edge: Edge, kept: tuple[Tensor, ...] = ()
) -> JoinedPlan | None:
    """The plan of a program with tensors as arguments and results; None for any other. Runs it once, for the shapes of both.
    kept: as a StagedPlan's, of all its steps."""
    if program.casts or not all(isinstance(name, str) for name in program.outputs):
        return None
    if not all(isinstance(a.dtype, torch.dtype) for a in program.arguments):
        return None
    lead = int(program.batched)
    inputs = [_input(argument, lead) for argument in program.arguments]
    zeros = [
        torch.zeros(
            (*(edge.samples,) * lead, *port.trailing), dtype=getattr(torch, port.value.dtype), device=edge.device
        )
        for port in inputs
    ]
    found = results(zeros)
    if not all(isinstance(y, Tensor) and y.shape[:lead] == (edge.samples,) * lead for y in found):
        return None
    outputs = [_port(name, y.shape[lead:], y.dtype, lead) for name, y in zip(program.outputs, found)]
    return JoinedPlan(Subgraph((), tuple(inputs), tuple(outputs)), results, edge, kept)


def _input(argument: Argument, lead: int) -> GraphIO:
    assert argument.dtype is not None
    return _port(argument.name, [n or 0 for n in argument.shape[lead:]], argument.dtype, lead)


def _port(name: str, trailing: Sequence[int], dtype: torch.dtype, lead: int) -> GraphIO:
    value = Value(name, prod(trailing), str(dtype).removeprefix("torch."))
    return GraphIO(value, lead, tuple(trailing))
