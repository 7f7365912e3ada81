"""Triangular factors beyond conformance: what makes factors factors, pivots, the calls of torch in compiled models, refusals."""

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
from rtaccel.kernels.lu import contract
from tests.support.networks.call import Call
from tests.support.one_stage import check_instruction_sets, check_no_samples, check_samples_apart, matrix_runs

L = torch.linalg
EPS = torch.finfo(torch.float32).eps
SIZES = ((1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (7, 4), (4, 9), (16, 16), (41, 23), (64, 64), (200, 6), (3, 100))

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "three": L.lu,
    "two of them": lambda a: L.lu(a)[1:],
    "the permutation": lambda a: L.lu(a)[0],
    "tall": lambda a: L.lu(a[..., :3]),
    "wide": lambda a: L.lu(a[:, :3]),
    "turned": lambda a: L.lu(a.mT),
    "several": lambda a: L.lu(torch.stack([a, a.flip(1)], 1)),
    "in one": L.lu_factor,
    "with an error code": lambda a: L.lu_factor_ex(a)[:2],
    "unpacked": lambda a: torch.lu_unpack(*L.lu_factor(a)),
    "solved": lambda a: L.lu_solve(*L.lu_factor(a), a[..., :2]),
    "solved, turned": lambda a: L.lu_solve(*L.lu_factor(a), a[..., :2], adjoint=True),
    "solved from the right": lambda a: L.lu_solve(*L.lu_factor(a), a[:, :2], left=False),
    "solved from the right, turned": lambda a: L.lu_solve(*L.lu_factor(a), a[:, :2], left=False, adjoint=True),
    "solved twice": lambda a: (lambda f: L.lu_solve(*f, L.lu_solve(*f, a[..., :1])))(L.lu_factor(a)),
    "solved, and the factors": lambda a: (lambda f: (L.lu_solve(*f, a[..., :1]), f[0].diagonal(dim1=1, dim2=2)))(L.lu_factor(a)),
}  # fmt: skip


def well(rows: int) -> Tensor:
    """[rows, 4, 4] with singular values of 1 to 3, and pivots that float32 and float64 agree on."""
    made = torch.empty(0, 4, 4)
    while len(made) < rows:
        u, _, v = L.svd(torch.randn(8, 4, 4))
        a = u @ torch.diag_embed(1 + 2 * torch.rand(8, 4)) @ v
        many = torch.stack([a, a * (1 + 1e-4 * torch.randn(8, 4, 4)), a * (1 + 1e-4 * torch.randn(8, 4, 4))])
        parts = (many, many.mT, many.flip(-2), many[..., :3], many[..., :3, :])
        same = torch.stack([(L.lu_factor(p)[1] == L.lu_factor(p)[1][0]).all(-1).all(0) for p in parts]).all(0)
        made = torch.cat([made, a[same]])
    return made[:rows]


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, well(2), strict=True)
    for rows in (1, 2, 5):
        a = well(rows)
        want, got = model(a.double()), fast(a)
        for w, g, own in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got, model(a))), strict=True):
            assert g.shape == w.shape and g.dtype == own.dtype
            torch.testing.assert_close(g.double(), w.double(), rtol=0, atol=64 * EPS * float(w.abs().max() + 1))


def test_factors_of_another_model_fall_back() -> None:
    """Those of an input: nothing says what they were made of."""
    both, pivots = L.lu_factor(well(1))
    model = Call(lambda x: L.lu_solve(both.expand(len(x), 4, 4), pivots.expand(len(x), 4), x)).eval()
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(model, torch.randn(2, 4, 1))
    assert "factors that are not those of a lu_factor" in fast.explain()


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_factors_are_factors(kind: str) -> None:
    g = torch.Generator().manual_seed(4)
    for rows, columns in SIZES:
        a = matrices.random(g, kind, 3, rows, columns)
        least = min(rows, columns)
        for name, run in matrix_runs(contract.make_stage(rows, columns), 3).items():
            p, low, up = (
                y.double().reshape(3, *s) for y, s in zip(run(a), ((rows, rows), (rows, least), (least, columns)))
            )
            assert (p.sum(-1) == 1).all() and (p.sum(-2) == 1).all() and ((p == 0) | (p == 1)).all()
            assert low.abs().max() <= 1 and torch.equal(low, low.tril()) and torch.equal(up, up.triu()), name
            assert (low.diagonal(dim1=-2, dim2=-1) == 1).all()
            off = (p @ low @ up - a.double()).abs().amax((-2, -1))
            assert (off <= EPS * least * (low.abs() @ up.abs()).amax((-2, -1))).all(), (name, rows, columns)


def test_pivots_and_triangles_in_one_are_the_same_factors() -> None:
    for rows, columns in SIZES:
        a = torch.randn(3, rows, columns)
        for run, both in zip(
            *(matrix_runs(contract.make_stage(rows, columns, g), 3).values() for g in ("p,l,u", "lu,pivots"))
        ):
            least = min(rows, columns)
            (p, low, up), (one, pivots) = run(a), both(a)
            shaped = one.reshape(3, rows, columns), pivots.reshape(3, least).int()
            for w, got in zip(torch.lu_unpack(*shaped), (p, low, up)):
                assert torch.equal(w, got.reshape(w.shape))


def test_the_first_of_equal_pivots_is_taken() -> None:
    a = torch.tensor([[[1.0, 2.0, 0.0], [-1.0, 1.0, 5.0], [1.0, 2.0, 3.0]]])
    for run in matrix_runs(contract.make_stage(3, 3, "pivots")).values():
        assert run(a)[0].flatten().tolist() == L.lu_factor(a)[1].flatten().tolist()


def test_a_pivot_of_zero_is_refused_where_torch_refuses_it() -> None:
    a = torch.ones(1, 4, 4)
    fast = rt.compile(Call(L.lu_factor).eval(), well(1), strict=True)
    with pytest.raises(FormatError, match="pivot of 0"):
        fast(a)
    three = rt.compile(Call(L.lu).eval(), well(1), strict=True)
    for got, want in zip(three(a), L.lu(a), strict=True):
        assert torch.equal(got, want)
    for name, run in matrix_runs(contract.make_stage(4, 4, "lu", refuses=1)).items():
        with pytest.raises(FormatError, match="pivot of 0"):
            run(a)
        assert run(well(1))[0].isfinite().all(), name


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_every_instruction_set_has_the_same_bits(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    for rows, columns in SIZES:
        for gives in ("p,l,u", "lu,pivots", "l,pivots"):
            check_instruction_sets(
                contract.make_stage(rows, columns, gives), (matrices.random(g, kind, 3, rows, columns),)
            )


def test_samples_are_apart() -> None:
    check_samples_apart(contract.make_stage(4, 3, "l,u", 2), (torch.randn(3, 8, 3),))
    check_no_samples(contract.make_stage(4, 3, "lu,pivots", 2))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {"rows": 3, "columns": 2, "count": 1, "refuses": 0, "gives": "l,u", **attrs}
        return Stage(
            "lu", "case", (Value("a", 2, steps=3),), (Value("l", 2, steps=3), Value("u", 2, steps=2)), {}, given
        )

    contract.lower(stage())
    for wrong in ("u,l", "l,q", "l,l", ""):
        with pytest.raises(FormatError):
            contract.lower(stage(gives=wrong))
    with pytest.raises(FormatError):
        contract.lower(Stage("lu", "case", (Value("a", 1),), (Value("pivots", 1),), {},
                             {"rows": 1, "columns": 1, "count": 1, "refuses": 0, "gives": "pivots"}))  # fmt: skip
    for bad in (
        {"rows": 2},
        {"rows": 0},
        {"rows": 65, "columns": 65},
        {"columns": 5000},
        {"count": 2},
        {"gives": "p,l"},
    ):
        with pytest.raises(ShapeError):
            contract.lower(stage(**bad))
