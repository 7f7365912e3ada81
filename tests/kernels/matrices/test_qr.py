"""QR beyond conformance: what makes factors factors, LAPACK's signs, the calls of torch in compiled models, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._matrices import matrices
from rtaccel.kernels.qr import contract
from tests.support.networks.call import Call
from tests.support.one_stage import check_instruction_sets, check_no_samples, check_samples_apart, matrix_runs

EPS = torch.finfo(torch.float32).eps
SIZES = ((1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (7, 4), (4, 9), (16, 16), (41, 23), (64, 64), (200, 6), (3, 100))

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "both": torch.linalg.qr,
    "complete": lambda a: torch.linalg.qr(a, mode="complete"),
    "r alone": lambda a: torch.linalg.qr(a, mode="r")[1],
    "q alone": lambda a: torch.linalg.qr(a)[0] * 2,
    "as before": lambda a: torch.qr(a, some=False),
    "turned": lambda a: torch.linalg.qr(a.mT),
    "several": lambda a: torch.linalg.qr(torch.stack([a, a + 1], 1)[..., :3]),
    "put together": lambda a: (lambda q, r: q @ r - a)(*torch.linalg.qr(a)),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(2, 6, 4), strict=True)
    for rows in (1, 2, 5):
        u, _, v = torch.linalg.svd(torch.randn(rows, 6, 4), full_matrices=False)
        x = u @ (v * torch.tensor([4.0, 3.0, 2.0, 1.0])[:, None])
        want, got = model(x.double()), fast(x)
        for w, g in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got)), strict=True):
            assert g.shape == w.shape
            torch.testing.assert_close(g.double(), w, rtol=0, atol=8 * EPS * float(w.abs().max() + 1))


@pytest.mark.parametrize("kind", matrices.KINDS)
@pytest.mark.parametrize("complete", [0, 1])
def test_factors_are_factors(kind: str, complete: int) -> None:
    """Of whatever matrix: also where they are no matter of the matrix alone."""
    g = torch.Generator().manual_seed(complete)
    for rows, columns in SIZES:
        a = matrices.random(g, kind, 3, rows, columns)
        stage = contract.make_stage(rows, columns, complete=complete)
        for name, run in matrix_runs(stage, 3).items():
            q, r = (y.double().reshape(3, -1, n) for y, n in zip(run(a), (stage.outputs[0].width, columns)))
            inner = q.shape[-1]
            assert inner == (rows if complete else min(rows, columns))
            off = (q.mT @ q - torch.eye(inner)).abs().max()
            assert off <= 4 * EPS * rows**0.5, (name, rows, columns)
            off = (q @ r - a.double()).abs().amax((-2, -1))
            assert (off <= 4 * EPS * inner**0.5 * torch.linalg.matrix_norm(a.double())).all(), (name, rows, columns)
            assert torch.equal(r, r.triu())


def test_signs_are_those_of_lapack() -> None:
    """Where the numbers below the diagonal are not 0, and where they are."""
    for rows, columns in SIZES:
        a = torch.randn(50, rows, columns)
        a[:10] = a[:10].triu()
        a[10:20, :, 0] = -a[10:20, :, 0].abs()
        a[20:30] *= -torch.eye(rows, columns)
        want = torch.linalg.qr(a.double())[1].diagonal(dim1=-2, dim2=-1)
        for name, run in matrix_runs(contract.make_stage(rows, columns, "r"), 50).items():
            got = run(a)[0].reshape(50, -1, columns).diagonal(dim1=-2, dim2=-1)
            known = want.abs() > 1e-9
            assert torch.equal(got.sign()[known], want.float().sign()[known]), (name, rows, columns)


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_every_instruction_set_has_the_same_bits(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    for rows, columns in SIZES:
        for complete in (0, 1):
            check_instruction_sets(contract.make_stage(rows, columns, complete=complete),
                                   (matrices.random(g, kind, 3, rows, columns),))  # fmt: skip


def test_samples_are_apart() -> None:
    check_samples_apart(contract.make_stage(4, 3, count=2), (torch.randn(3, 8, 3),))
    check_no_samples(contract.make_stage(4, 3, count=2))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {"rows": 3, "columns": 2, "count": 1, "complete": 0, "gives": "q,r", **attrs}
        outputs = (Value("q", 2, steps=3), Value("r", 2, steps=2))
        return Stage("qr", "case", (Value("a", 2, steps=3),), outputs, {}, given)

    contract.lower(stage())
    with pytest.raises(FormatError):
        contract.lower(stage(gives="r,q"))
    wrongs = ({"rows": 2}, {"rows": 0}, {"rows": 65, "columns": 65}, {"columns": 5000}, {"count": 2}, {"complete": 1},
              {"gives": "q"})  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
