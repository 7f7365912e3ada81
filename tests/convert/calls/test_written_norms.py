"""Norms that are written out: one stage where they are a root-mean-square norm, as they are where they are something else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.call import Call

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rsqrt": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "rsqrt first": lambda x: torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * x,
    "quotient": lambda x: x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-3),
    "no eps": lambda x: x * (x**2).mean(-1, True).rsqrt(),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "of another tensor": lambda x: (x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "over rows": lambda x: x * torch.rsqrt(x.pow(2).mean(-2, keepdim=True) + 1e-5),
    "over both": lambda x: x * torch.rsqrt(x.pow(2).mean((-1, -2), keepdim=True) + 1e-5),
    "of a cube": lambda x: x * torch.rsqrt(x.pow(3).abs().mean(-1, keepdim=True) + 1e-5),
    "eps by column": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + torch.arange(x.shape[-1]) * 0.1),
    "broadcast": lambda x: x * torch.rsqrt(x.transpose(-1, -2).pow(2).mean(-1, keepdim=True) + 1e-5),
    "root of a product": lambda x: x * torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "sum": lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-5),
    "eps below 0": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) - 1e-7),
}


def checked(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> list[str]:
    """Names of the stages, which equal the function in float64."""
    model = nn.Sequential(nn.Linear(shape[-1], shape[-1]), Call(function), nn.Linear(shape[-1], 3)).eval()
    fast = rt.compile(model, (torch.randn(shape),), strict=True)
    x = torch.randn(7, *shape[1:])
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(fast(x).double(), want, rtol=2e-5, atol=2e-5)
    x[1] = float("nan")
    assert torch.equal(fast(x).isnan(), model(x).isnan())
    return [stage.op for step in fast._program.steps for stage in step.group.stages]  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(2, 16), (3, 5, 33), (2, 3, 4, 8), (1, 1, 1)])
@pytest.mark.parametrize("name", NORMS)
def test_one_stage(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(len(shape))
    stages = checked(NORMS[name], shape)
    assert stages.count("norm") == 1 and not {"reduce", "expression", "strided_expression"} & set(stages)


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay_as_they_are(name: str) -> None:
    torch.manual_seed(3)
    shape = (2, 9, 9) if name in ("broadcast", "eps by column") else (2, 5, 9)
    assert "norm" not in checked(OTHERS[name], shape)
