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
    _descend(weight.double(), q, steps, statistics, (-8, 7))
    return int4.pack(q.to(torch.int8)), scale


def round_int8(weight: Tensor, statistics: InputStatistics) -> tuple[Tensor, Tensor]:
    """Weight int8 [N, K] and weight_scale float32 [N], the scales those of `formats.int8.quantize_weight`."""
    _, scale = int8.quantize_weight(weight)
    step = scale.double()
    q = _rounded(weight, statistics, COLUMNS, lambda part: step, (-127, 127))
    _descend(weight.double(), q, step[:, None].expand_as(q), statistics, (-127, 127))
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
        step = step_of(part)
        factor = upper[first:last, first:last]
        errors = torch.zeros_like(part)
        for i in range(last - first):
            q[:, first + i] = (part[:, i] / step).round_().clamp_(*limits)
            errors[:, i] = (part[:, i] - q[:, first + i] * step) / factor[i, i]
            part[:, i:] -= errors[:, i : i + 1] * factor[i, i:]
        w[:, last:] -= errors @ upper[first:last, last:]
    return q


def _descend(weight: Tensor, q: Tensor, steps: Tensor, statistics: InputStatistics, limits: tuple[int, int]) -> None:
    """Moves single numbers of q [N, K] in place, as long as that lowers (W - q s) H (W - q s)^T of their row."""
    h = statistics.second.double().clone()
    diagonal = h.diagonal()
    diagonal += DAMPING * diagonal.mean()  # what few rows do not show stays as it was
    gradient = (weight - q * steps) @ h  # of half the squares, against q s
    for _ in range(SWEEPS):
        moved = 0
        for i in range(q.shape[1]):
            if diagonal[i] <= 0:
                continue
            best = (q[:, i] + gradient[:, i] / diagonal[i] / steps[:, i]).round().clamp_(*limits)
            change = best - q[:, i]
            rows = change.nonzero().flatten()
            if not rows.numel():
                continue
            moved += rows.numel()
            q[rows, i] = best[rows]
            gradient[rows] -= (change[rows] * steps[rows, i])[:, None] * h[i]
        if not moved:
            return
