"""Systems of equations beyond conformance: the forms in which torch writes them, through compiled models, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.solve import contract
from tests.support.networks.call import Call, CallOfTwo

EPS = torch.finfo(torch.float32).eps
FIXED = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) + 3 * torch.eye(4)


def positive(a: Tensor) -> Tensor:
    return a @ a.mT + 0.5 * torch.eye(a.shape[-1], dtype=a.dtype)


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "solve": torch.linalg.solve,
    "of parts": lambda a, b: torch.linalg.solve(a[:, :3, 1:], b[:, 1:]),
    "turned": lambda a, b: torch.linalg.solve(a.mT, b),
    "from the right": lambda a, b: torch.linalg.solve(a, b.mT, left=False),
    "one for several": lambda a, b: torch.linalg.solve(a[:, None], torch.stack([b, 2 * b, b - 1], 1)),
    "several for one": lambda a, b: torch.linalg.solve(torch.stack([a, a.mT], 1), b[:, None]),
    "vectors": lambda a, b: torch.linalg.solve(a, b[..., 0]),
    "a constant vector": lambda a, b: torch.linalg.solve(a, FIXED[0].to(a.dtype)),
    "with a constant matrix": lambda a, b: torch.linalg.solve(FIXED.to(a.dtype), b),
    "of a constant right side": lambda a, b: torch.linalg.solve(a, torch.eye(4, dtype=a.dtype)[None, :, :2]),
    "inverse": lambda a, b: torch.linalg.inv(a),
    "inverse of several": lambda a, b: torch.inverse(torch.stack([a, a + torch.eye(4, dtype=a.dtype)], 1)).sum(1),
    "product with an inverse": lambda a, b: torch.linalg.inv(a) @ b,
    "determinant": lambda a, b: torch.linalg.det(a),
    "its logarithm": lambda a, b: torch.logdet(positive(a)),
    "with its sign": lambda a, b: torch.linalg.slogdet(a),
    "cholesky": lambda a, b: torch.linalg.cholesky(positive(a)),
    "cholesky, upper": lambda a, b: torch.linalg.cholesky(positive(a), upper=True),
    "by cholesky": lambda a, b: torch.cholesky_solve(b, torch.linalg.cholesky(positive(a))),
    "by an upper cholesky": lambda a, b: torch.cholesky_solve(b, torch.linalg.cholesky(positive(a), upper=True), upper=True),
    "upper triangle": lambda a, b: torch.linalg.solve_triangular(a + 3 * torch.eye(4, dtype=a.dtype), b, upper=True),
    "lower triangle": lambda a, b: torch.linalg.solve_triangular(a + 3 * torch.eye(4, dtype=a.dtype), b, upper=False),
    "triangle with ones": lambda a, b: torch.linalg.solve_triangular(a / 4, b, upper=False, unitriangular=True),
    "as before": lambda a, b: torch.triangular_solve(b, a + 3 * torch.eye(4, dtype=a.dtype))[0],
    "as before, turned": lambda a, b: torch.triangular_solve(b, a / 4, False, True, True)[0],
    "inverse by a factor": lambda a, b: torch.cholesky_inverse(torch.linalg.cholesky(positive(a))),
    "inverse by an upper factor": lambda a, b: torch.cholesky_inverse(torch.linalg.cholesky(positive(a), upper=True), upper=True),
    "power": lambda a, b: torch.linalg.matrix_power(a, -2),
    "triangle from the right": lambda a, b: torch.linalg.solve_triangular(
        a + 3 * torch.eye(4, dtype=a.dtype), b.mT, upper=True, left=False
    ),
}  # fmt: skip


def well(rows: int) -> Tensor:
    """Matrices with singular values of 1 to 3, so that results are good to a few units."""
    u, _, v = torch.linalg.svd(torch.randn(rows, 4, 4))
    return u @ torch.diag_embed(1 + 2 * torch.rand(rows, 4)) @ v


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    model = CallOfTwo(CALLS[name]).eval()
    fast = rt.compile(model, (well(2), torch.randn(2, 4, 3)), strict=True)
    for rows in (1, 2, 5):
        a, b = well(rows), torch.randn(rows, 4, 3)
        want, got = model(a.double(), b.double()), fast(a, b)
        for w, g in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got))):
            assert g.shape == w.shape
            # positive() squares a condition of 3, and part of a matrix may have a larger one
            torch.testing.assert_close(g.double(), w, rtol=0, atol=600 * EPS * float(w.abs().max() + 1))


def test_a_pivot_of_zero_needs_an_exchange() -> None:
    a = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    model = Call(lambda a: (torch.linalg.inv(a), torch.linalg.det(a))).eval()
    inverse, det = rt.compile(model, torch.randn(1, 2, 2), strict=True, verify=False)(a)
    assert torch.equal(inverse, a) and det.item() == -1


def test_singular_matrices_are_refused_by_name_and_a_determinant_of_zero_is_not() -> None:
    fast = rt.compile(Call(torch.linalg.inv).eval(), well(1), strict=True)
    with pytest.raises(FormatError, match="without an inverse"):
        fast(torch.ones(1, 4, 4))
    torch.testing.assert_close(fast(2 * torch.eye(4)[None]), 0.5 * torch.eye(4)[None])  # it goes on
    fast = rt.compile(Call(torch.linalg.cholesky).eval(), positive(well(1)), strict=True)
    with pytest.raises(FormatError, match="not positive definite"):
        fast(-torch.eye(4)[None])
    fast = rt.compile(Call(torch.linalg.det).eval(), well(1), strict=True)
    assert fast(torch.ones(1, 4, 4)).item() == 0


def test_nan_stays_in_its_sample() -> None:
    fast = rt.compile(Call(torch.linalg.inv).eval(), well(2), strict=True)
    a = well(3)
    a[1, 2, 0] = float("nan")
    y = fast(a)
    assert y[1].isnan().any() and torch.equal(y[[0, 2]], fast(a[[0, 2]]))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {"kind": "inverse", "n": 2, "columns": 1, "count": 1, **attrs}
        return Stage("solve", "case", (Value("a", 2, steps=2),), (Value("y", 2, steps=2),), {}, given)

    contract.lower(stage())
    with pytest.raises(FormatError):
        contract.lower(stage(kind="qr"))
    for wrong in ({"n": 3}, {"n": 0}, {"n": 65}, {"count": 2}, {"kind": "solve"}, {"kind": "pivots"}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
