"""Linear algebra with small complex matrices, as real ones of twice the size: a + ib is [[a, -b], [b, a]].

Functions of a matrix have that form again. Eigenvalues and singular values are there twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, pair, rule
from rtaccel.convert.frontend.exported.least_squares import LSTSQ, is_vector


def _as_real(a: Pair) -> Tensor:
    upper = torch.cat([a.re, -a.imaginary], -1)
    return torch.cat([upper, torch.cat([a.imaginary, a.re], -1)], -2)


@rule(aten.linalg_solve.default)
def _solve(a: Any, b: Any, *, left: bool = True) -> Pair:
    p, q = pair(a), pair(b)
    if not left:
        raise NoPairs("a complex matrix on the right")
    vector = q.re.dim() == 1 or (q.re.dim() == p.re.dim() - 1 and q.re.shape == p.re.shape[:-1])
    along = -1 if vector else -2
    found = torch.linalg.solve(_as_real(p), torch.cat([q.re, q.imaginary], along))
    n = p.re.shape[-1]
    return Pair(found.narrow(along, 0, n), found.narrow(along, n, n))


@rule(aten.linalg_inv.default, aten.inverse.default)
def _inverse(a: Any) -> Pair:
    p = pair(a)
    n = p.re.shape[-1]
    found = torch.linalg.inv(_as_real(p))[..., :n]
    return Pair(found.narrow(-2, 0, n), found.narrow(-2, n, n))


def _parts(found: Tensor, rows: int, columns: int) -> Pair:
    """Of a matrix in that form."""
    left = found[..., :columns]
    return Pair(left.narrow(-2, 0, rows), left.narrow(-2, rows, rows))


@rule(aten.linalg_matrix_exp.default, aten.matrix_exp.default)
def _exponential(a: Any) -> Pair:
    p = pair(a)
    n = p.re.shape[-1]
    return _parts(torch.linalg.matrix_exp(_as_real(p)), n, n)


@rule(aten.linalg_pinv.atol_rtol_float, aten.linalg_pinv.atol_rtol_tensor)
def _pseudoinverse(a: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Pair:
    p = pair(a)
    if isinstance(atol, Tensor) or isinstance(rtol, Tensor) or hermitian:
        raise NoPairs("limits that are tensors, or one triangle of a matrix")
    rows, columns = p.re.shape[-2:]
    if rtol is None:  # the sides are twice as long here
        rtol = 0.0 if atol is not None and atol > 0 else max(rows, columns) * torch.finfo(p.re.dtype).eps
    return _parts(torch.linalg.pinv(_as_real(p), atol=atol or 0.0, rtol=rtol), columns, rows)


@rule(LSTSQ)
def _least_squares(a: Any, b: Any, rcond: float | None, driver: str | None) -> Pair:
    p, q = pair(a), pair(b)
    rows, columns = p.re.shape[-2:]
    along = -1 if is_vector(p.re, q.re) else -2
    limit = (
        max(rows, columns) * torch.finfo(p.re.dtype).eps if rcond is None else rcond
    )  # the sides are twice as long here
    found = LSTSQ(_as_real(p), torch.cat([q.re, q.imaginary], along), limit, driver)
    return Pair(found.narrow(along, 0, columns), found.narrow(along, columns, columns))


@rule(aten.linalg_svdvals.default)
def _singular_values(a: Any, *, driver: Any = None) -> Pair:
    """Each value is there twice."""
    return Pair(torch.linalg.svdvals(_as_real(pair(a)))[..., ::2])


@rule(aten.linalg_eigvalsh.default)
def _eigenvalues(a: Any, UPLO: str = "L") -> Pair:
    """The same. Of the matrix in that form the triangle above is read too: it is made of the one that is read."""
    p = pair(a)
    lower = (p.re.tril(), p.imaginary.tril(-1)) if UPLO.upper() == "L" else (p.re.triu().mT, -p.imaginary.triu(1).mT)
    re = lower[0] + lower[0].tril(-1).mT
    return Pair(torch.linalg.eigvalsh(_as_real(Pair(re, lower[1] - lower[1].mT)))[..., ::2])


@rule(aten.linalg_matrix_norm.default)
def _spectral_norm(a: Any, ord: Any, dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Pair:
    p = pair(a)
    if ord not in (2, -2) or tuple(d % p.re.dim() - p.re.dim() for d in dim) != (-2, -1) or dtype is not None:
        raise NoPairs("another norm of complex matrices")
    return Pair(torch.linalg.matrix_norm(_as_real(p), ord, keepdim=keepdim))
