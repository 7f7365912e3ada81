"""Linear algebra on small matrices that are made of whatever comes, well-conditioned."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.generators.graphs.program import Draw, Made

L = torch.linalg


def _bounded(a: Tensor) -> Tensor:
    """The last two dimensions as matrices with numbers within -1 .. 1, at most 9 rows and columns."""
    return (a[..., :9, :9] * 0.25).tanh()


def _near_unit(a: Tensor) -> Tensor:
    """Singular values of 1 / 2 to 3 / 2: nothing here is divided by a small number."""
    small = _bounded(a)
    rows, columns = small.shape[-2:]
    return torch.eye(rows, columns, dtype=a.dtype) + small / (2 * max(rows, columns))


def _square(a: Tensor) -> Tensor:
    made = _near_unit(a)
    n = min(made.shape[-2:])
    return made[..., :n, :n]


def function(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no matrix")
    return Made(
        draw.of(
            lambda a, b: L.matrix_exp(_square(a)),
            lambda a, b: torch.matrix_exp(_bounded(a) @ _bounded(a).mT * 0.2),
            lambda a, b: L.matrix_power(_square(a), 3),
            lambda a, b: L.matrix_power(_square(a), -2),
        )
    )


def factor(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no matrix")
    return Made(
        draw.of(
            lambda a, b: L.qr(_near_unit(a))[1],
            lambda a, b: L.qr(_near_unit(a))[0],
            lambda a, b: (lambda q, r: q @ r)(*L.qr(_near_unit(a).mT)),
            lambda a, b: (lambda p, low, up: p @ low @ up)(*L.lu(_bounded(a))),
            lambda a, b: L.cholesky(_square(a) @ _square(a).mT),
        )
    )


def inverse(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no matrix")
    return Made(
        draw.of(
            lambda a, b: L.pinv(_near_unit(a)),
            lambda a, b: L.pinv(_near_unit(a).mT, rtol=1e-4),
            lambda a, b: L.inv(_square(a)),
            lambda a, b: L.lu_solve(*L.lu_factor(_square(a)), _bounded(a)[..., : min(_bounded(a).shape[-2:]), :2]),
            lambda a, b: L.solve(_square(a), _square(a)[..., 0]),
            lambda a, b: L.lstsq(_near_unit(a), _bounded(a)[..., :2]).solution,
        )
    )


def spectrum(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no matrix")
    return Made(
        draw.of(
            lambda a, b: L.svdvals(_bounded(a) + 1),
            lambda a, b: L.eigvalsh(_square(a)),
            lambda a, b: L.eigh(_bounded(a) @ _bounded(a).mT)[0],
            lambda a, b: L.svdvals(_bounded(a) + 1)[..., 0],  # torch.export fixes the samples of its norm
            lambda a, b: L.matrix_norm(_bounded(a), "nuc", keepdim=True),
            lambda a, b: L.cond(_near_unit(a)),
            lambda a, b: L.slogdet(_square(a))[1],
        )
    )


KINDS = (function, factor, inverse, spectrum)
