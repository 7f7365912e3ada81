"""Weights rounded for their inputs: each rounding error is made up for by the weights that are still to be rounded.

The columns of a weight W [N, K] are rounded one after the other. With H = E x x^T of the layer's inputs, what the rounding of a
column changes in the outputs is least where the columns to come take it up by the inverse of H. E. Frantar et al., "GPTQ:
Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023. Scales are those of rtaccel.formats: of int8
for each row of W as it came, of int4 for each group when its first column comes up. Sweeps of coordinate descent follow: a number
goes one step up or down where that lowers the error of its row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.convert.weights.prune import COLUMNS, DAMPING, InputStatistics, inverse_factor
from rtaccel.formats import int4, int8

SWEEPS = 4
"""Of coordinate descent. Most numbers that change do so in the first two."""


def round_int4(weight: Tensor, statistics: InputStatistics, group_size: int) -> tuple[Tensor, Tensor]:
    """Packed weight uint8 [N, (K + 1) // 2] and group_scale float32 [N, groups], as `formats.int4.quantize_weight` has them.

    Columns of a weight [N, K]; float64 inside; N K^2 operations.
    """
    scales: list[Tensor] = []

    def step_of(part: Tensor) -> Tensor:
        scales.append(int4.quantize_weight(part.float(), group_size)[1])
        return scales[-1][:, 0].double()

    q = _rounded(weight, statistics, group_size, step_of, (-8, 7))
    scale = torch.cat(scales, 1)
    steps = scale.double().repeat_interleave(group_size, dim=1)[:, : weight.shape[1]]
    _descend(weight.detach().double(), q, steps, statistics, (-8, 7))
    return int4.pack(q.to(torch.int8)), scale


def round_int8(weight: Tensor, statistics: InputStatistics) -> tuple[Tensor, Tensor]:
    """Weight int8 [N, K] and weight_scale float32 [N], the scales those of `formats.int8.quantize_weight`."""
    _, scale = int8.quantize_weight(weight)
    step = scale.double()
    q = _rounded(weight, statistics, COLUMNS, lambda part: step, (-127, 127))
    _descend(weight.detach().double(), q, step[:, None].expand_as(q), statistics, (-127, 127))
    return q.to(torch.int8), scale


def _rounded(
    weight: Tensor,
    statistics: InputStatistics,
    block: int,
    step_of: Callable[[Tensor], Tensor],
    limits: tuple[int, int],
) -> Tensor:
    """Whole numbers q [N, K] in float64, block by block. step_of: what the columns of a block, as they are by then, are divided
    by, [N]."""
    upper = inverse_factor(statistics)
    w = weight.detach().double().clone()
    n, k = w.shape
    q = torch.zeros(n, k, dtype=torch.float64, device=w.device)
    for first in range(0, k, block):
        last = min(first + block, k)
        part = w[:, first:last].clone()
        numbers, errors = _rounded_block(part, step_of(part), upper[first:last, first:last], limits)
        q[:, first:last] = numbers
        w[:, last:] -= errors @ upper[first:last, last:]
    return q


def _rounded_block(part: Tensor, step: Tensor, upper: Tensor, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Numbers and errors of a block [N, columns], column by column, in the native core with a column a row. `part` may be written
    to."""
    from rtaccel import _native

    columns = part.T.cpu().contiguous()
    numbers, errors = torch.empty_like(columns), torch.empty_like(columns)
    _native.round_columns(
        *(x.numpy() for x in (columns, step.cpu().contiguous(), upper.cpu().contiguous())), *limits,
        numbers.numpy(), errors.numpy(),
    )  # fmt: skip
    return numbers.T.contiguous().to(part.device), errors.T.contiguous().to(part.device)


def _descend(weight: Tensor, q: Tensor, steps: Tensor, statistics: InputStatistics, limits: tuple[int, int]) -> None:
    """Moves single numbers of q [N, K] in place, as long as that lowers (W - q s) H (W - q s)^T of their row."""
    from rtaccel import _native

    second = statistics.second.double().clone()
    second.diagonal().add_(DAMPING * second.diagonal().mean())  # what few rows do not show stays as it was
    gradient = (weight - q * steps) @ second  # of half the squares, against q s
    numbers = q.cpu().contiguous()
    _native.descend(*(x.cpu().contiguous().numpy() for x in (numbers, gradient, second, steps)), *limits, SWEEPS)
    q.copy_(numbers)
