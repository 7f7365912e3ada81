"""Pruning one linear layer: which weights to leave out, and what the others become.

All methods take the weight W [N, K] and, but for magnitude, the second moments H = X^T X / rows of the layer's inputs X
[rows, K] on calibration data. A pattern says how many weights go, and in what shape.

magnitude   score |W|. Nothing is changed but zeros put in.
wanda       score |W[n, k]| * sqrt(H[k, k]) (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
            2023): the size of a weight times that of what it multiplies; unstructured patterns row by row, as there.
second      weights go column by column, the others take up what that loses, by the inverse of H (Frantar and Alistarh,
            "SparseGPT", 2023, after Hassibi and Stork's Optimal Brain Surgeon). Unlike there, the masks of a layer that is
            unstructured are chosen from score W^2 / [H^-1]_kk over blocks of columns.
refit       the mask of `second`, then the kept weights of each row solved for by least squares on H: the optimum for that
            mask, so never worse on the calibration data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.sparsity import SemiStructured, Sparsity, Unstructured
from rtaccel.formats import masks

DAMPING = 0.01
"""Part of the mean of H's diagonal that is added to it, so that its inverse exists; as in the second-order papers."""

COLUMNS = 128
"""Columns that are pruned before the rest of the row is updated for them."""

LEAST_ROWS_PER_INPUT = 1.0
"""Calibration rows for each input feature below which H has no full rank and its inverse is mostly damping."""


@dataclass(frozen=True)
class Moments:
    """What calibration shows of a layer's inputs: second [K, K] = X^T X / rows, mean [K], and how many rows there were."""

    second: Tensor
    mean: Tensor
    rows: int


def magnitude(weight: Tensor, sparsity: Sparsity, moments: Moments | None) -> Tensor:
    mask = masks.keep(weight.abs(), sparsity)
    return torch.where(mask, weight, torch.zeros_like(weight))


def wanda(weight: Tensor, sparsity: Sparsity, moments: Moments | None) -> Tensor:
    assert moments is not None
    scores = weight.abs() * moments.second.diagonal().clamp_min(0).sqrt().to(weight.dtype)
    mask = masks.keep(_where_any(scores, weight), sparsity, by_row=isinstance(sparsity, Unstructured))
    return torch.where(mask, weight, torch.zeros_like(weight))


def _where_any(scores: Tensor, weight: Tensor) -> Tensor:
    """Scores by which a weight of zero is never preferred to another: an input that is always zero scores nothing."""
    return scores + torch.where(weight != 0, torch.finfo(scores.dtype).tiny, 0.0)


def second(weight: Tensor, sparsity: Sparsity, moments: Moments | None) -> Tensor:
    """float64 inside. K^3 for the inverse and N K^2 for the updates: a layer of 1024 x 1024 takes a second."""
    assert moments is not None
    w = weight.double().clone()
    k = w.shape[1]
    upper = _inverse_factor(moments)
    mask = None
    if not isinstance(sparsity, (Unstructured, SemiStructured)):  # blocks reach over columns: chosen before
        mask = masks.keep(w.square() / upper.diagonal().square(), sparsity)
    elif sparsity.sparsity is None and isinstance(sparsity, Unstructured):
        mask = w != 0
    for first in range(0, k, COLUMNS):
        last = min(first + COLUMNS, k)
        part = w[:, first:last].clone()
        errors = torch.zeros_like(part)
        factor = upper[first:last, first:last]
        kept = _part_mask(part, factor, sparsity) if mask is None else mask[:, first:last]
        for i in range(last - first):
            if isinstance(sparsity, SemiStructured) and i % 4 == 0:  # by the weights as they have become
                four = slice(i, min(i + 4, last - first))
                kept[:, four] = masks.n_of_m(part[:, four].square() / factor.diagonal()[four].square(), 2, 4)
            stays = torch.where(kept[:, i], part[:, i], torch.zeros_like(part[:, i]))
            errors[:, i] = (part[:, i] - stays) / factor[i, i]
            part[:, i:] -= errors[:, i : i + 1] * factor[i, i:]
            part[:, i] = stays
        w[:, first:last] = part
        w[:, last:] -= errors @ upper[first:last, last:]
    return w.to(weight.dtype)


def _part_mask(part: Tensor, factor: Tensor, sparsity: Sparsity) -> Tensor:
    if isinstance(sparsity, SemiStructured):
        return torch.ones_like(part, dtype=torch.bool)  # each four when it is reached
    assert sparsity.sparsity is not None
    return masks.largest(part.square() / factor.diagonal().square(), sparsity.sparsity)


def _inverse_factor(moments: Moments) -> Tensor:
    """Upper triangular U with U^T U = (H + damping)^-1. An input that is always zero is taken as independent."""
    h = moments.second.double().clone()
    diagonal = h.diagonal()
    dead = diagonal <= 0
    diagonal += DAMPING * diagonal.mean().clamp_min(1e-30)
    diagonal[dead] = 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def refit(weight: Tensor, sparsity: Sparsity, moments: Moments | None) -> Tensor:
    assert moments is not None
    return solve_kept(weight, second(weight, sparsity, moments) != 0, moments)


def solve_kept(weight: Tensor, mask: Tensor, moments: Moments) -> Tensor:
    """The weights in `mask` of each row such that the row's output is nearest to that of `weight`, by least squares on H."""
    h = moments.second.double().clone()
    diagonal = h.diagonal()
    diagonal += DAMPING * 0.1 * diagonal.mean().clamp_min(1e-30)
    wanted = weight.double() @ h  # [N, K]
    solved = torch.zeros_like(weight, dtype=torch.float64)
    for row in range(weight.shape[0]):
        kept = mask[row].nonzero().flatten()
        if kept.numel():
            solved[row, kept] = torch.linalg.solve(h[kept][:, kept], wanted[row, kept])
    return solved.to(weight.dtype)


def corrected_bias(weight: Tensor, pruned: Tensor, bias: Tensor, moments: Moments) -> Tensor:
    """The bias of least squared error: it takes up what the pruned layer loses on average."""
    return (bias.double() + (weight - pruned).double() @ moments.mean.double()).to(bias.dtype)


def output_error(weight: Tensor, pruned: Tensor, shift: Tensor | None, moments: Moments) -> float:
    """rms of what the layer's output loses over rms of W x, on the calibration data. shift: what the bias took up."""
    h, mean = moments.second.double(), moments.mean.double()
    lost = (weight - pruned).double()
    squares = ((lost @ h) * lost).sum(1)
    if shift is not None:
        squares = squares - 2 * shift.double() * (lost @ mean) + shift.double().square()
    whole = ((weight.double() @ h) * weight.double()).sum()
    return float((squares.sum().clamp_min(0) / whole.clamp_min(1e-300)).sqrt())


Method = Callable[[Tensor, Sparsity, "Moments | None"], Tensor]

METHODS: dict[str, Method] = {"magnitude": magnitude, "wanda": wanda, "second": second, "refit": refit}
"""By name; all but magnitude need calibration data."""


def check_rows(name: str, method: str, moments: Moments) -> None:
    """Raises FormatError where the second-order methods have too little to go by."""
    k = moments.second.shape[0]
    if method in ("second", "refit") and moments.rows < LEAST_ROWS_PER_INPUT * k:
        raise FormatError(
            "sparsify_",
            f"{moments.rows} calibration rows for {name}, method {method!r}",
            f"at least {int(LEAST_ROWS_PER_INPUT * k)}, its number of inputs",
            "Pass more batches, or take method='wanda', which needs few.",
        )
