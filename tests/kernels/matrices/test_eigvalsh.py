"""Eigenvalues of symmetric matrices beyond conformance: known ones, the calls of torch in compiled models, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._matrices import matrices
from rtaccel.kernels.eigvalsh import contract
from tests.support.networks.call import Call
from tests.support.one_stage import check_instruction_sets, check_no_samples, check_samples_apart, matrix_runs

EPS = torch.finfo(torch.float32).eps
INF, NAN = float("inf"), float("nan")

CALLS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "alone": (torch.linalg.eigvalsh, (5, 5)),
    "upper": (lambda a: torch.linalg.eigvalsh(a, UPLO="U"), (5, 5)),
    "several": (lambda a: torch.linalg.eigvalsh(a)[..., -1], (3, 4, 4)),
    "of a covariance": (lambda x: torch.linalg.eigvalsh(x.mT @ x / x.shape[1]).log1p(), (20, 6)),
    "values of both": (lambda a: torch.linalg.eigh(a)[0], (4, 4)),
    "values by name": (lambda a: torch.linalg.eigh(a, UPLO="U").eigenvalues.flip(-1), (4, 4)),
    "hermitian": (lambda a: torch.linalg.eigvalsh(torch.complex(a[:, :4], a[:, 4:])), (8, 4)),
    "hermitian, upper": (lambda a: torch.linalg.eigvalsh(torch.complex(a[:, :4], a[:, 4:]), UPLO="U"), (8, 4)),
    "rank": (lambda a: torch.linalg.matrix_rank(a[:, :2].mT @ a[:, :2], hermitian=True), (4, 4)),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    call, shape = CALLS[name]
    model = Call(call).eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        want, got = model(x.double()), fast(x)
        assert got.shape == want.shape and (want.is_floating_point() or torch.equal(got, model(x)))
        torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=32 * EPS * float(want.abs().max() + 1))


def test_vectors_stay_with_torch_and_it_is_said_why() -> None:
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(Call(torch.linalg.eigh).eval(), torch.eye(3)[None] * torch.tensor([1.0, 2, 3]))
    assert "signs are those of PyTorch's rounding" in fast.explain()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 25, 48, 64])
def test_known_ones(n: int) -> None:
    """Turned diagonals with equal, opposite, graded and no values; three diagonals; one number away from the diagonal."""
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    line = torch.arange(n, dtype=torch.float64)
    known = {
        "equal": torch.ones(n, dtype=torch.float64), "opposite": (-1.0) ** line, "graded": 10.0 ** (-line),
        "few": (line > n / 2).double(), "near": 1 + 1e-9 * line,
    }  # fmt: skip
    found = {name: (q * v) @ q.T for name, v in known.items()}
    found["second differences"] = (
        2 * torch.eye(n).double() - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    )
    known["second differences"] = 2 - 2 * torch.cos(torch.pi * (line + 1) / (n + 1))
    if n > 1:
        found["a corner"] = torch.zeros(n, n, dtype=torch.float64)
        found["a corner"][n - 1, 0] = found["a corner"][0, n - 1] = 1e-30
        known["a corner"] = torch.zeros(n, dtype=torch.float64)
        known["a corner"][0], known["a corner"][-1] = -1e-30, 1e-30
    for case, a in found.items():
        want = known[case].sort().values
        for name, run in matrix_runs(contract.make_stage(n)).items():
            got = run(a.float()[None])[0].double().reshape(-1)
            # a itself was rounded
            assert (got - want).abs().max() <= EPS * n**0.5 * want.abs().max(), (case, name)


def test_nothing_of_the_other_triangle_is_read() -> None:
    a = torch.randn(2, 6, 6)
    other = torch.where(torch.ones(6, 6).triu(1) > 0, NAN, a)
    for run in matrix_runs(contract.make_stage(6)).values():
        assert torch.equal(run(other)[0], run(a)[0])


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_every_instruction_set_has_the_same_bits(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    for n in (1, 2, 3, 5, 8, 19, 64):
        check_instruction_sets(contract.make_stage(n), (matrices.random(g, kind, 3, n, n),))


def test_ten_thousand_of_each_kind_are_found() -> None:
    """The algorithm ends, whatever the matrix: limits of its steps are never met."""
    g = torch.Generator().manual_seed(0)
    for kind in matrices.KINDS:
        for n in (3, 12):
            a = matrices.random(g, kind, 10_000 // n, n, n)
            want = torch.linalg.eigvalsh(matrices.mirrored(a.double()))
            got = matrix_runs(contract.make_stage(n), reference=False)["cpu_portable"](a)[0].reshape(want.shape)
            assert ((got - want).abs() <= EPS / 2 * want.abs() + 1e-13 * want.abs().amax(-1, keepdim=True)).all()


def test_samples_are_apart() -> None:
    check_samples_apart(contract.make_stage(3, 2), (torch.randn(3, 6, 3),))
    check_no_samples(contract.make_stage(3, 2))
    a = torch.eye(3).expand(2, 3, 3).clone()
    a[0, 2, 0] = INF
    for run in matrix_runs(contract.make_stage(3)).values():
        y = run(a)[0].reshape(2, 3)
        assert y[0].isnan().all() and torch.equal(y[1], torch.ones(3))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {"n": 2, "count": 1, **attrs}
        return Stage("eigvalsh", "case", (Value("a", 2, steps=2),), (Value("y", 2),), {}, given)

    contract.lower(stage())
    for wrong in ({"n": 3}, {"n": 0}, {"n": 65}, {"count": 2}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
