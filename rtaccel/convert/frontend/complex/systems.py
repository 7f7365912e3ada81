"""Systems of linear equations with complex matrices, as real ones of twice the size: a + ib is [[a, -b], [b, a]]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, pair, rule

aten = torch.ops.aten


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
