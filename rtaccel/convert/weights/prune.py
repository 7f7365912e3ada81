"""Pruning one linear layer: which weights to leave out, and what the others become.

All methods take the weight W [N, K] and, but for magnitude, second moments H = X^T X / rows of the layer's inputs X [rows,
K] on calibration data. A pattern says how many weights go, and in what shape. Where layers before this one are pruned, its
inputs are no longer those of the dense model: `second` and `refit` then aim at the outputs on the dense inputs, from those
that there are now.

magnitude   score |W|. Nothing is changed but zeros put in.
wanda       score |W[n, k]| * sqrt(H[k, k]) (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
            2023): the size of a weight times that of what it multiplies; unstructured patterns row by row, as there.
second      the mask of wanda; weights go column by column, and those of the row that are still to come take up what that
            loses, by the inverse of H (Frantar and Alistarh, "SparseGPT", 2023, after Hassibi and Stork's Optimal Brain
            Surgeon). SparseGPT's own masks, from W^2 / [H^-1]_kk, did worse where calibration has fewer rows than K.
refit       the mask of wanda, then the kept weights of each row solved for by least squares on H: the optimum for that
            mask on the calibration data. N systems of as many unknowns as a row keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.sparsity import Sparsity, Unstructured
from rtaccel.formats import masks

DAMPING = 0.01
"""Part of the mean of H's diagonal that is added to it, so that its inverse exists; as in the second-order papers."""

COLUMNS = 128
"""Columns that are pruned before the rest of the row is updated for them."""

MIN_ROWS_PER_INPUT = 1 / 8
"""Calibration rows for each input feature below which the inverse of H is mostly damping, and worse than magnitude alone
where inputs differ from those seen. H has full rank only with one row for each."""


@dataclass(frozen=True)
class InputStatistics:
    """What calibration shows of a layer's inputs: second [K, K] = X^T X / rows, mean [K], and how many rows there were.

    For a layer behind pruned ones, X is what it is fed now and Z what the dense model feeds it: cross = Z^T X / rows, whole
    = Z^T Z / rows and dense_mean, that of Z. Else these are those of X.
    """

    second: Tensor
    mean: Tensor
    rows: int
    cross: Tensor
    whole: Tensor
    dense_mean: Tensor

    @classmethod
    def of_dense(cls, second: Tensor, mean: Tensor, rows: int) -> InputStatistics:
        return cls(second, mean, rows, second, second, mean)


def magnitude(weight: Tensor, sparsity: Sparsity, statistics: InputStatistics | None) -> Tensor:
    mask = masks.keep(weight.abs(), sparsity)
    return torch.where(mask, weight, torch.zeros_like(weight))


def wanda(weight: Tensor, sparsity: Sparsity, statistics: InputStatistics | None) -> Tensor:
    assert statistics is not None
    scores = weight.abs() * statistics.second.diagonal().clamp_min(0).sqrt().to(weight.dtype)
    mask = masks.keep(_where_any(scores, weight), sparsity, by_row=isinstance(sparsity, Unstructured))
    return torch.where(mask, weight, torch.zeros_like(weight))


def _where_any(scores: Tensor, weight: Tensor) -> Tensor:
    """Scores by which a weight of zero is never preferred to another: an input that is always zero scores nothing."""
    return scores + torch.where(weight != 0, torch.finfo(scores.dtype).tiny, 0.0)


def second(weight: Tensor, sparsity: Sparsity, statistics: InputStatistics | None) -> Tensor:
    """float64 inside. K^3 for the inverse and N K^2 for the updates: a layer of 1024 x 1024 takes a second."""
    assert statistics is not None
    mask = wanda(weight, sparsity, statistics) != 0
    upper = inverse_factor(statistics)
    w = weight.double()
    w = (
        w + w @ (statistics.cross - statistics.second).double() @ upper.T @ upper
    )  # the dense optimum for the inputs of now
    k = w.shape[1]
    for first in range(0, k, COLUMNS):
        last = min(first + COLUMNS, k)
        part, kept, factor = w[:, first:last].clone(), mask[:, first:last], upper[first:last, first:last]
        errors = torch.zeros_like(part)
        for i in range(last - first):
            stays = torch.where(kept[:, i], part[:, i], torch.zeros_like(part[:, i]))
            errors[:, i] = (part[:, i] - stays) / factor[i, i]
            part[:, i:] -= errors[:, i : i + 1] * factor[i, i:]
            part[:, i] = stays
        w[:, first:last] = part
        w[:, last:] -= errors @ upper[first:last, last:]
    return w.to(weight.dtype)


def inverse_factor(statistics: InputStatistics) -> Tensor:
    """Upper triangular U with U^T U = (H + damping)^-1. An input that is always zero is taken as independent."""
    h = statistics.second.double().clone()
    diagonal = h.diagonal()
    dead = diagonal <= 0
    diagonal += DAMPING * diagonal.mean().clamp_min(1e-30)
    diagonal[dead] = 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def refit(weight: Tensor, sparsity: Sparsity, statistics: InputStatistics | None) -> Tensor:
    assert statistics is not None
    return solve_kept(weight, wanda(weight, sparsity, statistics) != 0, statistics)


def solve_kept(weight: Tensor, mask: Tensor, statistics: InputStatistics) -> Tensor:
    """The weights in `mask` of each row such that the row's output is nearest to that of `weight`, by least squares on H.

    Damped towards `weight`, so that what the data does not show stays as it is.
    """
    h = statistics.second.double().clone()
    diagonal = h.diagonal()
    damping = (DAMPING * diagonal.mean()).clamp_min(1e-12)
    diagonal += damping
    wanted = weight.double() @ statistics.cross.double() + damping * weight.double()  # [N, K]
    solved = torch.zeros_like(weight, dtype=torch.float64)
    for row in range(weight.shape[0]):
        kept = mask[row].nonzero().flatten()
        if kept.numel():
            solved[row, kept] = torch.linalg.solve(h[kept][:, kept], wanted[row, kept])
    return solved.to(weight.dtype)


def corrected_bias(weight: Tensor, pruned: Tensor, bias: Tensor, statistics: InputStatistics) -> Tensor:
    """The bias of least squared error: it takes up what the pruned layer loses on average."""
    lost = weight.double() @ statistics.dense_mean.double() - pruned.double() @ statistics.mean.double()
    return (bias.double() + lost).to(bias.dtype)


def output_error(weight: Tensor, pruned: Tensor, shift: Tensor | None, statistics: InputStatistics) -> float:
    """rms of what the layer's output loses over rms of W x, on the calibration data. shift: what the bias took up."""
    w, p = weight.double(), pruned.double()
    whole = ((w @ statistics.whole.double()) * w).sum()
    squares = whole - 2 * ((w @ statistics.cross.double()) * p).sum() + ((p @ statistics.second.double()) * p).sum()
    if shift is not None:
        lost = w @ statistics.dense_mean.double() - p @ statistics.mean.double()
        squares = squares - (2 * shift.double() * lost - shift.double().square()).sum()
    return float((squares.clamp_min(0) / whole.clamp_min(1e-300)).sqrt())


Method = Callable[[Tensor, Sparsity, "InputStatistics | None"], Tensor]

METHODS: dict[str, Method] = {
    "magnitude": magnitude, "wanda": wanda, "sparsegpt": second, "least_squares": refit, "second": second, "refit": refit,
}  # fmt: skip
"""By name; all but magnitude need calibration data."""


IN_TURN = ("sparsegpt", "least_squares", "second", "refit")
"""Methods that prune layers in the order of their calls, each for the inputs that those before it leave."""


def check_rows(name: str, method: str, statistics: InputStatistics) -> None:
    """Raises FormatError where the second-order methods have too little to go by."""
    k = statistics.second.shape[0]
    if method in IN_TURN and statistics.rows < MIN_ROWS_PER_INPUT * k:
        raise FormatError(
            "sparsify_",
            f"{statistics.rows} calibration rows for {name}, method {method!r}",
            f"at least {ceil(MIN_ROWS_PER_INPUT * k)}, an eighth of its {k} inputs (several for each are better)",
            "Pass more batches, or take method='wanda', which needs few.",
        )
