"""Norms, conditions and ranks of matrices by their singular values or eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten


def _matrix_norm(a: Tensor, kind: Any, dim: Any, keepdim: bool) -> Tensor:
    """kind: "nuc", 2 or -2. dim: of the rows and of the columns of a matrix."""
    rows, columns = (d % a.dim() for d in dim)
    left = [d for d in range(a.dim()) if d not in (rows, columns)]
    values = aten.linalg_svdvals.default(a.permute(*left, rows, columns))
    found = aten.sum.dim_IntList(values, [-1]) if kind == "nuc" else values.select(-1, 0 if kind == 2 else -1)
    if keepdim:
        for d in sorted((rows, columns)):
            found = found.unsqueeze(d)
    return found


def _norm(target: Any) -> Callable[..., Tensor]:
    """Of a call whose arguments are those of torch.linalg.norm. Norms without singular values are taken apart by torch."""

    def apply(a: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
        of_matrices = target in (aten.linalg_matrix_norm.default, aten.linalg_matrix_norm.str_ord)
        over = [-2, -1] if dim is None and (of_matrices or (a.dim() == 2 and ord is not None)) else dim
        if over is not None and len(over) == 2 and ord in ("nuc", 2, -2) and dtype in (None, a.dtype):
            return _matrix_norm(a, ord, over, keepdim)
        if of_matrices:
            return target.decompose(a, "fro" if ord is None else ord, over, keepdim, dtype=dtype)
        return target.decompose(a, ord, dim, keepdim, dtype=dtype)

    return apply


def _condition(a: Tensor, p: Any = None) -> Tensor:
    if p not in (None, 2, -2):
        raise NotImplementedError  # infinite of a matrix without an inverse, which `solve` refuses
    found = aten.linalg_svdvals.default(a)
    first, last = found.select(-1, 0), found.select(-1, -1)
    return last / first if p == -2 else first / last


def _rank(a: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    if isinstance(atol, Tensor) or isinstance(rtol, Tensor):
        raise NotImplementedError
    if hermitian:
        found = aten.linalg_eigvalsh.default(a).abs()
        largest = aten.amax.default(found, [-1], True)
    else:
        found = aten.linalg_svdvals.default(a)
        largest = found.narrow(-1, 0, 1)
    if rtol is None:
        rtol = 0.0 if atol is not None and atol > 0 else max(a.shape[-2:]) * torch.finfo(a.dtype).eps
    limit = (largest * rtol).clamp_min(atol or 0.0)
    return aten.sum.dim_IntList((found > limit).to(torch.int64), [-1])


SPECTRA: dict[Any, Any] = {
    **{
        target: _norm(target)
        for target in (
            aten.linalg_matrix_norm.default,
            aten.linalg_matrix_norm.str_ord,
            aten.linalg_norm.default,
            aten.linalg_norm.ord_str,
        )
    },
    aten.nuclear_norm.default: lambda a, keepdim=False: _matrix_norm(a, "nuc", [-2, -1], keepdim),
    aten.nuclear_norm.dim: lambda a, dim, keepdim=False: _matrix_norm(a, "nuc", dim, keepdim),
    aten.linalg_cond.default: _condition,
    aten.linalg_matrix_rank.atol_rtol_float: _rank,
    aten.linalg_matrix_rank.atol_rtol_tensor: _rank,
    aten.linalg_matrix_rank.default: lambda a, tol, hermitian=False: _rank(a, atol=tol, rtol=0.0, hermitian=hermitian),
}
"""call -> the same as calls that operators compute."""
