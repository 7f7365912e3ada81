"""Every second to fourth number, and numbers woven in turn, as rotations of pairs have them, with the bits of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.networks.call import Call


def _woven(x: Tensor, parts: int, dim: int) -> Tensor:
    return torch.stack([x * (i + 1) for i in range(parts)], dim)


def _turned(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"every {k} from {first}": lambda x, k=k, first=first: x[..., first::k]
        for k in (2, 3, 4, 5)
        for first in (0, 1)
    },
    **{f"columns every {k}": lambda x, k=k: x.flatten(1)[:, k - 1 :: k] for k in (2, 3, 4)},
    **{f"{parts} woven": lambda x, parts=parts: _woven(x, parts, -1) for parts in (2, 3, 4, 5)},
    **{f"{parts} woven before": lambda x, parts=parts: _woven(x, parts, 2) for parts in (2, 3)},
    "both": lambda x: torch.stack([x[..., ::2], x[..., 1::2]], -1).flatten(-2),
    "pairs turned": _turned,
    "pairs apart": lambda x: torch.cat([x[..., ::2], x[..., 1::2]], -1),
    "rows every third": lambda x: x[:, ::3] + 1,
    "any order": lambda x: x.flatten(1)[:, torch.tensor([5, 0, 3, 3, 7, 2, 9, 11, 1])],
}


@pytest.mark.parametrize("shape", [(7, 12), (1, 2), (5, 34), (3, 126), (96, 16)])
@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str, shape: tuple[int, int]) -> None:
    if name in ("any order", "columns every 3", "columns every 4") and shape == (1, 2):
        pytest.skip("too few numbers")
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for batch in (1, 2, 3):
        x = torch.randn(batch, *shape)
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)
