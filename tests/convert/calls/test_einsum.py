"""einsum as products: every kind of index, with samples where they are, against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.decompositions.einsum import einsum

EQUATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bik,bjk->bij": ((2, 3, 4), (2, 5, 4)), "bik,kj->bij": ((2, 3, 4), (4, 5)),
    "bhid,bhjd->bhij": ((2, 3, 4, 5), (2, 3, 6, 5)),
    "...id,...jd->...ij": ((2, 3, 4, 5), (2, 3, 6, 5)), "bn,bm->bnm": ((2, 3), (2, 4)), "bi,bi->b": ((2, 3), (2, 3)),
    "bnd,nde->bne": ((2, 3, 4), (3, 4, 5)), "nde,bnd->bne": ((3, 4, 5), (2, 3, 4)), "bij,bj->bi": ((2, 3, 4), (2, 4)),
    "bxyc,cde->bdexy": ((2, 3, 2, 4), (4, 5, 2)), "bijk,bjkl->bil": ((2, 3, 4, 5), (2, 4, 5, 2)),
    "bi,j->bij": ((2, 3), (4,)), "bik,bkj->ijb": ((2, 3, 4), (2, 4, 5)), "bik,bjl->bij": ((2, 3, 4), (2, 5, 6)),
    "...de,...nd,...n->...ne": ((2, 3, 4, 5), (2, 3, 6, 4), (2, 3, 6)), "bi,bj,bk->bik": ((2, 3), (2, 4), (2, 5)),
    "bij,jk,kl->bil": ((2, 3, 4), (4, 5), (5, 6)), "ij,bjk->bik": ((5, 3), (2, 3, 4)),
    "bii->b": ((2, 4, 4),), "bii->bi": ((2, 4, 4),), "biij,bj->bi": ((2, 3, 3, 4), (2, 4)), "bii,jj->b": ((2, 3, 3), (4, 4)),
    "bijij->bj": ((2, 3, 4, 3, 4),), "biii,bi->bi": ((2, 3, 3, 3), (2, 3)),
    "bijk,bijk->bik": ((2, 3, 4, 5), (2, 3, 4, 5)), "ij,...j->...i": ((4, 5), (2, 5)), "ij,...j->...i ": ((4, 5), (2, 3, 5)),
}  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_means_what_torch_means(equation: str) -> None:
    given = [torch.randn(shape, dtype=torch.float64) for shape in EQUATIONS[equation]]
    torch.testing.assert_close(einsum(equation, given), torch.einsum(equation, *given), rtol=1e-12, atol=1e-12)


class Einsum(nn.Module):
    def __init__(self, equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.equation, terms = equation, equation.split("->")[0].split(",")
        self.given = [term.startswith(("b", "...")) for term in terms]
        self.p = nn.ParameterList(torch.randn(shape) for shape, own in zip(shapes, self.given) if not own)

    def forward(self, *inputs: Tensor) -> Tensor:
        own, rest = iter(inputs), iter(self.p)
        return torch.einsum(self.equation, *(next(own) if given else next(rest) for given in self.given))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_native_with_any_number_of_samples(equation: str) -> None:
    model = Einsum(equation, EQUATIONS[equation]).eval()
    shapes = [shape for shape, own in zip(EQUATIONS[equation], model.given) if own]
    fast = rt.compile(model, tuple(torch.randn(shape) for shape in shapes), strict=True)
    assert fast.batch.hi is None
    for rows in (1, 2, 5):
        inputs = [torch.randn(rows, *shape[1:]) for shape in shapes]
        torch.testing.assert_close(fast(*inputs), model(*inputs).detach(), rtol=1e-5, atol=1e-5)
