"""Streams of fewer time steps than the stage has: an int64 input behind x, [M, batch, 1], says how many each has.

At a time step behind its last one a stream's states stay what they are, and y is 0: what torch computes of a packed sequence.
The direction from the end to the beginning starts at a stream's own last time step. x behind it is never read. A length below
1 or above the number of time steps is a FormatError.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.recurrent.layout import Geometry, takes_lengths


def refused(problem: Problem) -> str | None:
    """For `supports` of a form that reads no lengths."""
    return "takes sequences without lengths of their own" if takes_lengths(problem.in_dtypes) else None


def counts_of(stage: Stage, *inputs: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """(how many time steps each stream has [M * batch], the states) of the inputs of a stage. None: all that there are."""
    if not takes_lengths([value.dtype for value in stage.inputs]):
        return None, inputs[1:]
    time, counts = Geometry.of(stage.attrs).time, inputs[1].reshape(-1)
    outside = counts[(counts < 1) | (counts > time)]
    if stage.attrs.get("longest"):
        found = inputs[1].flatten(1).amax(1)
        if (found != time).any():
            raise FormatError(
                stage.op, f"lengths up to {int(found.min())}", f"{time} as the longest, the time steps of x",
                "Pass total_length to pad_packed_sequence.",
            )  # fmt: skip
    if outside.numel():
        raise FormatError(
            stage.op,
            f"a length of {int(outside[0])}",
            f"1 to {time}, the time steps of x",
            "Pass lengths of sequences in x.",
        )
    return counts, inputs[2:]


def going(t: int, counts: Tensor | None, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """States after time step t, [streams, ..]: the new ones where a stream has that time step."""
    if counts is None:
        return new
    return tuple(torch.where((t < counts)[:, None], *pair) for pair in zip(new, old))


def there(counts: Tensor | None, x: Tensor) -> Tensor:
    """[T, N], or [T, 1] where all are: which time steps of x [T, N, ..] the streams have."""
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    return steps >= 0 if counts is None else steps < counts


def until(counts: Tensor | None, y: Tensor, fill: float = 0.0) -> Tensor:
    """y [time steps, streams, ..], with `fill` behind the last time step of a stream."""
    if counts is None:
        return y
    return torch.where(there(counts, y)[..., None], y, torch.full((), fill, dtype=y.dtype, device=y.device))


def by_torch(
    kind: str, x: Tensor, counts: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int,
    bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(y, states after) of torch's own pass over packed sequences, which wants the longest first. kind: "lstm" or another of
    `torch._VF`. x: [T, N, K], or [N, T, K] with batch_first."""
    samples, time = (0, 1) if batch_first else (1, 0)
    if not len(counts):  # torch packs no empty ones
        return x.new_zeros(*x.shape[:2], states[0].shape[-1] * (1 + bidirectional)), *states
    order = torch.argsort(counts, descending=True, stable=True)
    back = torch.argsort(order)
    data, sizes = torch._VF._pack_padded_sequence(x.index_select(samples, order), counts[order].cpu(), batch_first)
    before = [state[:, order].contiguous() for state in states]
    hx = tuple(before) if len(before) > 1 else before[0]
    y, *after = getattr(torch._VF, kind)(data, sizes, hx, list(weights), biased, layers, 0.0, False, bidirectional)
    padded, _ = torch._VF._pad_packed_sequence(y, sizes, batch_first, 0.0, x.shape[time])
    return padded.index_select(samples, back), *(state[:, back] for state in after)
