"""Exponentials of matrices beyond conformance: known ones, torch's calls in compiled models, what is not finite, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._matrices import matrices
from rtaccel.kernels.matrix_exp import contract
from tests.support.networks.call import Call
from tests.support.one_stage import check_instruction_sets, check_no_samples, check_samples_apart, matrix_runs

EPS = torch.finfo(torch.float32).eps


def hat(w: Tensor) -> Tensor:
    """[.., 3] -> [.., 3, 3]: the matrix of the cross product with w."""
    x, y, z = w.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


CALLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "rotation": (lambda x: torch.linalg.matrix_exp(hat(x)), (3,)),
    "several": (lambda x: torch.matrix_exp(hat(x)) @ x[..., None], (4, 3)),
    "turned": (lambda x: torch.matrix_exp(x.mT), (5, 5)),
    "a part": (lambda x: torch.matrix_exp(x[:, 1:4, :3]), (6, 7)),
    "in between": (lambda x: torch.matrix_exp(x.tanh() * 0.5).sum(-1), (2, 3, 3)),
    "a state space": (lambda x: torch.matrix_exp(torch.nn.functional.pad(x, (0, 0, 0, 2)) * 0.01), (4, 6)),
    "complex": (lambda x: torch.view_as_real(torch.matrix_exp(torch.complex(x[:, :3], x[:, 3:]))), (6, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    call, shape = CALLS[name]
    model = Call(call).eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        want = model(x.double())
        assert fast(x).shape == want.shape
        # What is computed from the input before rounds too, and the norm of a matrix says what that comes to.
        torch.testing.assert_close(fast(x).double(), want, rtol=0, atol=64 * EPS * float(want.abs().max() + 1))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 16, 37, 64])
def test_norms_from_tiny_to_large(n: int) -> None:
    stage = contract.make_stage(n)
    for size in (1e-30, 1e-3, 0.05, 0.3, 0.9, 3.0, 40.0):
        a = torch.randn(4, n, n)
        a = a - a.mT if size > 3 else a
        a = a * size / a.abs().sum(-1).amax((-1,), keepdim=True)[..., None].clamp_min(1e-30)
        want = torch.linalg.matrix_exp(a.double())
        for name, run in matrix_runs(stage, reference=False).items():
            got = run(a)[0].double().reshape(want.shape)
            assert ((got - want).abs() <= EPS / 2 * want.abs() + 1e-12 * (1 + size) * want.abs().max()).all(), (
                name,
                size,
            )


def test_known_ones() -> None:
    d = torch.randn(3, 5) * 3
    lower = torch.randn(3, 4, 4).tril(-1)
    wide = lower.double()
    series = torch.eye(4) + wide + wide @ wide / 2 + wide @ wide @ wide / 6
    for run in matrix_runs(contract.make_stage(5)).values():
        torch.testing.assert_close(
            run(torch.diag_embed(d))[0], torch.diag_embed(d.double().exp()).float(), rtol=2e-7, atol=0
        )
        assert torch.equal(run(torch.zeros(2, 5, 5))[0], torch.eye(5).expand(2, 5, 5))
    for run in matrix_runs(contract.make_stage(4)).values():
        torch.testing.assert_close(run(lower)[0].double(), series, rtol=EPS, atol=1e-13)
    turn = hat(torch.tensor([[0.0, 0.0, torch.pi / 2]]))
    for run in matrix_runs(contract.make_stage(3)).values():
        want = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
        torch.testing.assert_close(run(turn)[0], want, rtol=0, atol=1e-7)


def test_what_is_too_large_is_infinite_and_what_is_not_finite_is_nan() -> None:
    for name, run in matrix_runs(contract.make_stage(1)).items():
        y = run(torch.tensor([[[89.0]], [[-1e30]], [[float("inf")]], [[float("nan")]]]))[0].flatten()
        assert y[0].isinf() and y[1] == 0 and y[2:].isnan().all(), name


@pytest.mark.parametrize("kind", matrices.KINDS)
def test_every_instruction_set_has_the_same_bits(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    for n in (1, 2, 3, 5, 8, 19, 64):
        check_instruction_sets(contract.make_stage(n), (matrices.random(g, kind, 3, n, n),))


def test_samples_are_apart() -> None:
    check_samples_apart(contract.make_stage(3, 2), (torch.randn(3, 6, 3),))
    check_no_samples(contract.make_stage(3, 2))


def test_what_is_refused() -> None:
    def stage(**attrs: object) -> Stage:
        given = {"n": 2, "count": 1, **attrs}
        return Stage("matrix_exp", "case", (Value("a", 2, steps=2),), (Value("y", 2, steps=2),), {}, given)

    contract.lower(stage())
    for wrong in ({"n": 3}, {"n": 0}, {"n": 65}, {"count": 2}, {"count": 0}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
    with pytest.raises(FormatError):
        contract.lower(Stage("matrix_exp", "case", (Value("a", 2, "int64", steps=2),), (Value("y", 2, steps=2),), {},
                             {"n": 2, "count": 1}))  # fmt: skip
