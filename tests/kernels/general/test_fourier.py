"""Fourier beyond conformance: lengths of small factors against sums in float64, compiled models, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.kernels.fourier import contract, plan
from tests.support.networks.call import Call
from tests.support.one_stage import check_no_samples, check_samples_apart, kernels

LENGTHS = [n for n in range(16, 331) if plan.split(n, True) is not None]


def test_the_lengths_are_those_of_small_factors() -> None:
    assert {16, 20, 24, 25, 28, 32, 64, 100, 128, 240, 256}.difference(LENGTHS) == {16, 20, 24, 28}
    assert plan.split(2 * 17 * 17, True) is None
    assert plan.split(1024, True) == plan.Split(512, 16, 32, True)
    assert plan.split(441, True) == plan.Split(441, 21, 21, False)


@pytest.mark.parametrize("n", LENGTHS[::5])
def test_every_number_is_the_sum_that_it_stands_for(n: int) -> None:
    """The definition, with angles in float64."""
    x = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    k, j = np.arange(n // 2 + 1)[:, None], np.arange(n)[None, :]
    want = x.astype(np.float64) @ np.exp(-2j * np.pi * (k * j % n) / n).T
    stage = contract.make_stage("real", n, n // 2 + 1, 1)
    for name, run in kernels(stage, 2).items():
        got = run(torch.from_numpy(x))[0].reshape(2, 2, -1).double().numpy()
        error = np.abs(got[:, 0] + 1j * got[:, 1] - want).max()
        assert error <= 4 * n * torch.finfo(torch.float32).eps, name


@pytest.mark.parametrize("n", [25, 32, 60, 225, 400, 1024])
def test_there_and_back(n: int) -> None:
    class Back(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(x), n=n)

    fast = rt.compile(Back().eval(), (torch.randn(2, 3, n),), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3, n)
        torch.testing.assert_close(fast(x), x, rtol=0, atol=2e-6)


def test_samples_are_apart_and_none_give_none() -> None:
    for kind, n in (("real", 64), ("complex", 81), ("to_real", 60)):
        stage = contract.make_stage(kind, n, n if kind == "complex" else n // 2 + 1, 2, int(kind == "to_real"))
        check_samples_apart(stage, (torch.randn(3, *stage.inputs[0].shape),))
        check_no_samples(stage)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("kind", "n"), [("real", 64), ("real", 225), ("complex", 60), ("to_real", 96), ("to_real", 105)]
)
def test_lines_side_by_side_have_the_bits_of_lines_alone(kind: str, n: int, beside: bool) -> None:
    wanted, inverse = n // 2 if kind == "real" else n, int(kind == "to_real")
    count = 37
    together = contract.make_stage(kind, n, wanted, count, inverse, beside=beside)
    alone = contract.make_stage(kind, n, wanted, 1, inverse)
    x = torch.randn(2, *together.inputs[0].shape)
    both = kernels(together, 2)
    each = x.reshape(2, -1, count).transpose(1, 2) if beside else x.reshape(2, count, -1)
    for name, run in kernels(alone, 1).items():
        if not name.startswith("cpu"):
            continue  # plain torch's own transforms
        got = both[name](x)[0].reshape(2, count, -1)
        want = [[run(line.reshape(1, -1).contiguous())[0].reshape(-1) for line in sample] for sample in each]
        assert all(torch.equal(got[s, i], want[s][i]) for s in range(2) for i in range(count)), name


def test_a_nan_reaches_its_own_line_alone() -> None:
    fast = rt.compile(Call(lambda x: torch.fft.rfft(x).abs()).eval(), torch.randn(2, 4, 64), strict=True)
    x = torch.randn(3, 4, 64)
    x[1, 2, 5] = float("nan")
    found = fast(x).isnan()
    assert bool(found[1, 2].all()) and int(found.sum()) == 33


def test_what_is_refused() -> None:
    stage = contract.make_stage("real", 64, 33, 2)
    for attrs, error in (
        ({"kind": "cosine"}, FormatError), ({"n": 2 * 17 * 17}, FormatError), ({"inverse": 1}, FormatError),
        ({"wanted": 34}, ShapeError), ({"wanted": 0}, ShapeError), ({"dims": (2, 63)}, ShapeError),
        ({"place": (1, 64, 1)}, ShapeError), ({"place": (0, 64, 2)}, ShapeError),
    ):  # fmt: skip
        with pytest.raises(error):
            contract.lower(replace(stage, attrs={**stage.attrs, **attrs}))
    with pytest.raises(ShapeError, match="window"):
        contract.lower(replace(stage, tensors={"window": torch.ones(63)}))
