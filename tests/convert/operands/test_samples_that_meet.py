"""Every sample meets every other, as in the logits of a model of images and texts: native for the batch of the example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
MEETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": lambda a, b: 2.5 * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).t(),
    "both": lambda a, b: (a @ b.t()).softmax(-1) + (b @ a.t()).softmax(0),
    "distances": lambda a, b: torch.cdist(a, b),
    "differences": lambda a, b: (a[:, None] - b[None]).abs().sum(-1),
    "einsum": lambda a, b: torch.einsum("xd,yd->xy", a, b).sigmoid(),
    "itself": lambda a, b: a @ a.mT,
}


class Two(nn.Module):
    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.meet = nn.Linear(12, 16), nn.Sequential(nn.Linear(7, 16), nn.Tanh()), meet

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.meet(self.first(x), self.second(y))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", MEETS)
def test_is_native_for_the_batch_of_the_example(name: str, batch: int) -> None:
    torch.manual_seed(batch)
    model = Two(MEETS[name]).eval()
    fast = rt.compile(model, (torch.randn(batch, 12), torch.randn(batch, 7)), strict=True)  # nothing is PyTorch's
    x, y = torch.randn(batch, 12), torch.randn(batch, 7)
    torch.testing.assert_close(fast(x, y), model(x, y), atol=1e-5, rtol=1e-4)
    assert f"fixed to {batch}" in str(fast.explain(measure=False))
    with pytest.raises(rt.ShapeError, match="batch"):
        fast(torch.randn(batch + 1, 12), torch.randn(batch + 1, 7))
