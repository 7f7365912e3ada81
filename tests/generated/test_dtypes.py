"""Random modules over tensors of every dtype: each result has the dtype, shape and numbers of eager torch, or a typed error says
why not."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtaccel as rt
from tests.support.generators.count import case, examples
from tests.support.generators.dtypes import EXAMPLE, Drawn
from tests.support.networks.call import Call, CallOfTwo

FIRST = int(os.environ.get("RTACCEL_FIRST_GRAPH", "0"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(FIRST, FIRST + examples(300)))
def test_equals_torch(seed: int) -> None:
    model = Drawn(seed).eval()
    try:
        fast = rt.compile(model, tuple(model.arguments(EXAMPLE)), verify=False)
    except rt.UnsupportedProblem:
        return
    for samples in (EXAMPLE, 1, 2, 5):
        given = model.arguments(samples, seed=samples)
        with torch.no_grad():
            try:
                want = model(*(x.clone() for x in given))
            except (RuntimeError, IndexError):
                continue
            kept = [x.clone() for x in given]
            try:
                got = fast(*given)
            except rt.ShapeError:
                assert samples != EXAMPLE, model.text
                continue
        assert all(torch.equal(x, y) for x, y in zip(given, kept)), model.text
        case("dtypes")
        for name, a, b in zip(model.results, got, want, strict=True):
            same(a, b, f"{name} of {samples} samples:\n{model.text}\n{[(str(d), s) for d, s in model.inputs]}")


def same(got: Tensor, want: Tensor, text: str) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape, (
        f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}: {text}"
    )
    if want.is_floating_point():
        assert bool(torch.isclose(got, want, rtol=2e-5, atol=2e-5 * max(1.0, float(want.abs().max()))).all()), (
            f"{got}\n{want}\n{text}"
        )
    else:
        assert torch.equal(got, want), f"{got}\n{want}\n{text}"


ONE_DTYPE = {
    "floor": lambda x, n: x // n,
    "remainder": lambda x, n: x % n,
    "fmod": torch.fmod,
    "trunc": lambda x, n: torch.div(x, n, rounding_mode="trunc"),
    "gt": lambda x, n: x > n,
    "eq": lambda x, n: x == n,
    "lower": lambda x, n: torch.clamp(x, min=n),
    "upper": lambda x, n: torch.clamp(x, max=n),
    "sum": lambda x, n: x - n,
    "logical": lambda x, n: torch.logical_and(x, torch.as_tensor(n)),
}
"""What torch computes in the dtype of the tensor that has dimensions."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
@pytest.mark.parametrize("name", ONE_DTYPE)
def test_numbers_that_the_dtype_does_not_hold(name: str, dtype: torch.dtype) -> None:
    """They wrap before anything is done: `x > -1` compares bytes with 255. Written down, and given."""
    x = torch.arange(-128, 128).reshape(4, 64).to(dtype)
    for number in (-3, 300, 2**16 + 2, 2**31 + 5):
        with_it = Call(lambda x, n=number: ONE_DTYPE[name](x, n)).eval()
        for model, inputs in ((with_it, (x,)), (CallOfTwo(ONE_DTYPE[name]).eval(), (x, torch.tensor(number)))):
            try:
                want = model(*inputs)
            except RuntimeError:  # a limit that torch does not wrap
                continue
            got = rt.compile(model, inputs, verify=False)(*inputs)
            assert got.dtype == want.dtype and torch.equal(got, want), number
            case("dtypes")


PUT = {
    "scatter": lambda x, i, n: x.scatter(1, i, n),
    "scatter-add": lambda x, i, n: x.scatter(1, i, n, reduce="add"),
    "scatter-multiply": lambda x, i, n: x.scatter(1, i, n, reduce="multiply"),
    "index_fill": lambda x, i, n: x.index_fill(1, torch.tensor([2, 0]), n),
    "pad": lambda x, i, n: F.pad(x, (1, 2), value=n),
    "scatter_add": lambda x, i, n: x.scatter_add(1, i, x),
    "index_add": lambda x, i, n: x.index_add(1, torch.tensor([0, 0, 1]), x[:, :3]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("name", PUT)
def test_numbers_that_are_put(name: str, dtype: torch.dtype) -> None:
    """They become what the dtype keeps: True, a whole number, or one that wraps; so do sums with them."""
    made = torch.Generator().manual_seed(7)
    x = torch.randint(-128, 128, (3, 9), generator=made).to(dtype)
    i = torch.randint(9, (3, 4), generator=made)
    for number in (3, 0.5, -2.7, -1, 120, 30000):
        model = CallOfTwo(lambda x, i, n=number: PUT[name](x, i, n)).eval()
        try:
            want = model(x, i)
        except RuntimeError:  # a number that torch refuses
            continue
        got = rt.compile(model, (x, i), verify=False)(x, i)
        assert got.dtype == want.dtype and torch.equal(got, want), number
        case("dtypes")


@pytest.mark.filterwarnings("ignore")
def test_one_place_among_all_samples_is_written() -> None:
    """No call closes the batch: a constant beside it has as many rows as there are samples."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y, filled = x * 2, torch.full_like(x, -1).clone()
        y[-1] = 0
        filled.view(-1)[0] = 1
        return y, filled

    model = Call(function).eval()
    fast = rt.compile(model, torch.randn(3, 6), verify=False)
    for samples in (3, 1, 5):
        x = torch.randn(samples, 6)
        assert all(torch.equal(a, b) for a, b in zip(fast(x), model(x), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_the_batch_of_one_input_alone_is_closed() -> None:
    """Another input leaves its own open, and the sizes of both are the batch."""

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        rolled = x.prod(-1)
        return y * 2, rolled.roll(1, -1), x[:, rolled.long() % x.shape[1]] + x

    model = CallOfTwo(function).eval()
    x, y = torch.randint(-9, 9, (3, 1)).int(), torch.randn(3, 6)
    fast = rt.compile(model, (x, y), verify=False)
    assert all(torch.equal(a, b) for a, b in zip(fast(x, y), model(x, y), strict=True))
