"""Cast: the reference by NumPy and by torch, every kernel on every number, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.stage import Stage
from rtaccel.kernels.cast import contract
from tests.support.one_stage import check_no_samples, kernels


def stage(source: str, result: str, n: int, m: int | None = None) -> Stage:
    return contract.make_stage((1, n), source, (1, n if m is None else m), result)


def test_reference_is_numpys_and_torchs() -> None:
    x = torch.cat([contract.numbers((1, 5000), seed) for seed in range(8)])
    x = torch.cat(
        (x, torch.tensor([65504, 65519.996, 65520, -65520, 2**-24, 2**-25, 2**-25 + 2**-40, -0.0]).repeat(625)[None])
    )
    half = contract.reference(stage("float32", "float16", 5000), x)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        want = torch.from_numpy(x.numpy().astype(np.float16))
    nan = torch.isnan(x)
    assert torch.equal(torch.isnan(half), nan)
    assert torch.equal(half.masked_fill(nan, 0).view(torch.int16), want.masked_fill(nan, 0).view(torch.int16))
    brain = contract.reference(stage("float32", "bfloat16", 5000), x)[0]
    assert torch.equal(brain.masked_fill(nan, 0), x.to(torch.bfloat16).masked_fill(nan, 0))
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        wide = contract.reference(stage(name, "float32", 5000), x.to(dtype))[0]
        assert torch.equal(wide.masked_fill(nan, 0), x.to(dtype).float().masked_fill(nan, 0))


@pytest.mark.parametrize("half", contract.HALVES)
def test_all_numbers_go_there_and_back(half: str) -> None:
    """On each kernel: every one of the 65,536 widens to a float32 that is rounded to itself."""
    dtype = getattr(torch, half)
    given = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).reshape(1, -1)
    up, down = stage(half, "float32", 2**16), stage("float32", half, 2**16)
    ways = [(dict(kernels(up)), dict(kernels(down)))]
    for ups, downs in ways:
        assert set(downs) <= set(ups) and len(downs) > 1
        for name in downs:
            wide = ups[name](given)[0]
            back = downs[name](wide)[0]
            nan = torch.isnan(given)
            assert torch.equal(wide.masked_fill(nan, 0), given.float().masked_fill(nan, 0)), name
            assert torch.equal(torch.isnan(back), nan)
            assert torch.equal(
                back.masked_fill(nan, 0).view(torch.int16), given.masked_fill(nan, 0).view(torch.int16)
            ), name


def test_no_samples() -> None:
    check_no_samples(stage("bfloat16", "float32", 7))


@pytest.mark.parametrize(("source", "result"), [("float32", "float32"), ("float16", "bfloat16"), ("int64", "float32")])
def test_other_dtypes_are_refused(source: str, result: str) -> None:
    with pytest.raises(rt.FormatError, match="float16 or bfloat16"):
        contract.lower(stage(source, result, 4))


def test_another_number_of_elements_is_refused() -> None:
    with pytest.raises(rt.ShapeError, match="as many"):
        contract.lower(stage("float32", "float16", 4, 5))
