"""Singular values beyond conformance: known ones, what pseudoinverses and least squares are, the calls of torch, refusals."""

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
from rtaccel.kernels.svd import contract
from tests.support.networks.call import Call
from tests.support.one_stage import check_instruction_sets, check_no_samples, check_samples_apart, matrix_runs

L = torch.linalg
EPS = torch.finfo(torch.float32).eps
INF, NAN = float("inf"), float("nan")
SIZES = ((1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (7, 4), (4, 9), (16, 16), (41, 23), (64, 64), (200, 6), (3, 100))
FIXED = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "values": L.svdvals,
    "values of all": lambda a: L.svd(a)[1],
    "values by name": lambda a: torch.svd(a.mT).S,
    "the largest": lambda a: L.matrix_norm(a, 2),
    "the least": lambda a: L.norm(a, -2, dim=(1, 2)),
    "their sum": lambda a: L.matrix_norm(a, "nuc", keepdim=True),
    "their sum by dimensions": lambda a: L.norm(torch.stack([a, a + 1], 2), "nuc", dim=(3, 1)),
    "condition": L.cond,
    "its inverse": lambda a: L.cond(a, -2),
    "condition of a square": lambda a: L.cond(a[:, :4]),
    "rank": L.matrix_rank,
    "rank to a limit": lambda a: L.matrix_rank(a, atol=2.5),
    "rank by parts": lambda a: L.matrix_rank(a, rtol=0.6),
    "rank as before": lambda a: L.matrix_rank(a, 2.5),
    "pseudoinverse": L.pinv,
    "as before": torch.pinverse,
    "to a limit": lambda a: L.pinv(a, atol=1.5),
    "by parts": lambda a: L.pinv(a, rtol=0.6),
    "a number": lambda a: L.pinv(a, 0.6),
    "of a symmetric one": lambda a: L.pinv(a.mT @ a, hermitian=True),
    "wide": lambda a: L.pinv(a.mT),
    "several": lambda a: L.pinv(torch.stack([a, 2 * a], 1)),
    "product with it": lambda a: L.pinv(a) @ a[..., :2],
    "least squares": lambda a: L.lstsq(a[..., :3], a[..., 3:])[0],
    "by name": lambda a: L.lstsq(a[:, :4], a[:, :4, 1:]).solution,
    "the least of several": lambda a: L.lstsq(a.mT, a.mT[..., :2]).solution,
    "of a vector": lambda a: L.lstsq(a[..., :3], a[..., 3]).solution,
    "of a constant": lambda a: L.lstsq(a, FIXED[:, :2].to(a.dtype).expand(a.shape[0], 6, 2)).solution,
    "with a constant": lambda a: L.lstsq(FIXED.to(a.dtype)[None], a).solution,
    "of full rank": lambda a: L.lstsq(a, a * 2, driver="gels").solution,
    "to a limit, by least squares": lambda a: L.lstsq(a, a, rcond=0.6, driver="gelsd").solution,
    "complex": lambda a: torch.view_as_real(L.pinv(torch.complex(a, a.flip(-1) * 0.2))),
    "complex least squares": lambda a: torch.view_as_real(
        L.lstsq(torch.complex(a, a.flip(1)), torch.complex(a[..., :2], a[..., 1:3])).solution
    ),
    "complex least squares of a vector": lambda a: torch.view_as_real(
        L.lstsq(torch.complex(a.mT, a.mT.flip(1)), torch.complex(a[:, 0], a[:, 1])).solution
    ),
    "complex values": lambda a: L.svdvals(torch.complex(a, a.flip(1))),
    "complex norm": lambda a: L.matrix_norm(torch.complex(a, a.flip(1)), 2),
}


def well(rows: int) -> Tensor:
    """[rows, 6, 4] with the singular values 4, 3, 2, 1."""
    u, _, v = L.svd(torch.randn(rows, 6, 4), full_matrices=False)
    return u @ (v * torch.tensor([4.0, 3.0, 2.0, 1.0])[:, None])


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, well(2), strict=True)
    for rows in (1, 2, 5) if fast.batch.hi is None else (2, 2):
        a = well(rows)
        want, got = model(a.double()), fast(a)
        assert got.shape == want.shape and got.dtype == model(a).dtype
        # a condition of 4, and what is computed before rounds in float32
        torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=600 * EPS * float(want.abs().max() + 1))


def test_vectors_stay_with_torch_and_it_is_said_why() -> None:
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(Call(lambda a: L.svd(a)[0]).eval(), well(2))
    assert "signs are those of PyTorch's rounding" in fast.explain()


def test_residuals_of_least_squares_leave_the_model_to_torch() -> None:
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(Call(lambda a: tuple(L.lstsq(a, a[..., :1])[:2])).eval(), well(2), verify=False)
    a = well(2)
    assert torch.equal(fast(a)[1], L.lstsq(a, a[..., :1]).residuals)


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_pseudoinverses_are_pseudoinverses(kind: str) -> None:
    """The four equations of Moore and Penrose, of whatever matrix."""
    g = torch.Generator().manual_seed(1)
    for rows, columns in SIZES:
        a = matrices.random(g, kind, 3, rows, columns)
        for name, run in matrix_runs(contract.make_stage("pinv", rows, columns), 3).items():
            y, x = run(a)[0].double().reshape(3, columns, rows), a.double()
            size = (L.matrix_norm(x, 2) * L.matrix_norm(y, 2)).clamp_min(1)[:, None, None]
            near = 8 * EPS * size * max(rows, columns) ** 0.5
            cut = 2e-5 * L.matrix_norm(x, 2)[:, None, None]  # values below are left out
            assert ((x @ y @ x - x).abs() <= near * matrices.largest(x) + cut).all(), (name, rows, columns)
            assert ((y @ x @ y - y).abs() <= near * L.matrix_norm(y, 2)[:, None, None]).all(), (name, rows, columns)
            for product in (x @ y, y @ x):
                assert ((product - product.mT).abs() <= near).all(), (name, rows, columns)


def test_known_values() -> None:
    for n in (1, 2, 3, 8, 33, 61):
        u, v = (L.qr(torch.randn(n + 3, n, dtype=torch.float64))[0] for _ in range(2))
        line = torch.arange(n, dtype=torch.float64)
        for case, values in {
            "equal": torch.ones(n, dtype=torch.float64), "graded": 10.0 ** (-line), "few": (line < n / 2).double(),
            "near": 1 + 1e-9 * line, "none": 0 * line,
        }.items():  # fmt: skip
            a = ((u * values) @ v.T).float()
            for name, run in matrix_runs(contract.make_stage("values", n + 3, n + 3)).items():
                got = run(a[None])[0].double().reshape(-1)
                want = torch.cat([values.sort(descending=True).values, torch.zeros(3)])
                assert (got - want).abs().max() <= EPS * n**0.5 * values.max(), (case, name, n)


def test_zeros_on_the_diagonal_and_beside_it() -> None:
    """Two diagonals as the rotations start from them, with zeros in every place: values that vanish on the way."""
    g = torch.Generator().manual_seed(2)
    for n in (2, 3, 4, 7):
        d, e = torch.randn(2, 400, n, generator=g) * (torch.rand(2, 400, n, generator=g) > 0.4)
        a = torch.diag_embed(d) + torch.diag_embed(e[:, :-1], 1)
        want = L.svdvals(a.double())
        for name, run in matrix_runs(contract.make_stage("values", n, n), reference=False).items():
            off = (run(a)[0].reshape(want.shape) - want).abs()
            assert (off <= EPS / 2 * want + 1e-14 * want[:, :1]).all(), name
        inverse = L.pinv(a.double(), rtol=1e-5)
        for name, run in matrix_runs(contract.make_stage("pinv", n, n), reference=False).items():
            off = (run(a)[0].reshape(inverse.shape) - inverse).abs()
            most = L.matrix_norm(inverse, 2)[:, None, None]
            assert (off <= EPS / 2 * inverse.abs() + 1e-13 * most**2 * want[:, :1, None]).all(), name


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_every_instruction_set_has_the_same_bits(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    for rows, columns in SIZES:
        a, b = matrices.random(g, kind, 3, rows, columns), torch.randn(3, rows, 5)
        check_instruction_sets(contract.make_stage("values", rows, columns), (a,))
        check_instruction_sets(contract.make_stage("pinv", rows, columns), (a,))
        check_instruction_sets(contract.make_stage("least", rows, columns, right=5), (a, b))


def test_ten_thousand_of_each_kind_are_found() -> None:
    """The algorithm ends, whatever the matrix: limits of its steps are never met."""
    g = torch.Generator().manual_seed(0)
    for kind in matrices.KINDS:
        for n in (3, 12):
            a = matrices.random(g, kind, 10_000 // n, n, n)
            want = L.svdvals(a.double())
            got = matrix_runs(contract.make_stage("values", n, n), reference=False)["cpu_portable"](a)[0].reshape(
                want.shape
            )
            assert ((got - want).abs() <= EPS / 2 * want + 1e-13 * want[:, :1]).all()


def test_an_infinity_stays_in_its_sample_and_a_nan_is_refused() -> None:
    for kind, right in (("values", 1), ("pinv", 1), ("least", 2)):
        stage = contract.make_stage(kind, 3, 2, right=right)
        a = torch.randn(3, 3, 2)
        more = (torch.randn(3, 3, 2),) if kind == "least" else ()
        bad = a.clone()
        bad[1, 2, 0] = INF
        for name, run in matrix_runs(stage, 3).items():
            before, after = run(a, *more)[0], run(bad, *more)[0]
            assert after[1].isnan().all() and torch.equal(after[[0, 2]], before[[0, 2]]), name
            bad[1, 2, 0] = NAN
            with pytest.raises(FormatError, match="NaN"):
                run(bad, *more)
            bad[1, 2, 0] = INF
            assert torch.equal(run(a, *more)[0], before), "it goes on"
    fast = rt.compile(Call(L.svdvals).eval(), well(2), strict=True)
    with pytest.raises(FormatError, match="NaN"):
        fast(well(2) * NAN)


def test_other_samples_keep_their_bits() -> None:
    for kind in ("values", "pinv"):
        stage = contract.make_stage(kind, 4, 3, 2)
        a = torch.randn(3, 8, 3)
        for name, run in matrix_runs(stage, 3).items():
            before = run(a)[0]
            for value in (3e38, 0.25, 0.0):
                changed = a.clone()
                changed[1] = value
                after = run(changed)[0]
                assert torch.equal(after[[0, 2]], before[[0, 2]]) and not torch.equal(after[1], before[1]), name
        check_no_samples(stage)
    check_samples_apart(contract.make_stage("least", 4, 3, 1, 2, "a"), (torch.randn(3, 4, 2),))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {
            "kind": "pinv",
            "rows": 3,
            "columns": 2,
            "right": 1,
            "count": 1,
            "mirrored": 0,
            "rtol": 0.0,
            "atol": 0.0,
        }
        return Stage("svd", "case", (Value("a", 2, steps=3),), (Value("y", 3, steps=2),), {}, {**given, **attrs})

    contract.lower(stage())
    with pytest.raises(FormatError):
        contract.lower(stage(kind="vectors"))
    for wrong in ({"rows": 2}, {"rows": 0}, {"rows": 65, "columns": 65}, {"columns": 5000}, {"count": 2}, {"kind": "least"},
                  {"mirrored": 1}, {"right": 0}, {"kind": "values"}):  # fmt: skip
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
