"""Rows that are taken out of all samples joined, as networks of point clouds and graphs do: they stay native for every batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt

POINTS, NEAR = 11, 4
Take = Callable[[Tensor, Tensor], Tensor]


def counts(x: Tensor, *shape: int) -> Tensor:
    return torch.arange(0, x.shape[0], device=x.device).view(-1, *shape) * POINTS


WAYS: dict[str, Take] = {
    "rows of a view": lambda x, i: x.reshape(-1, x.shape[2])[(i + counts(x, 1, 1)).view(-1), :],
    "contiguous": lambda x, i: (
        x.transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
        .contiguous()
        .view(-1, 5)[(counts(x, 1, 1) + i).contiguous().view(-1)]
    ),
    "as they lie": lambda x, i: x.flatten(0, 1)[i + counts(x, 1, 1)],
    "index_select": lambda x, i: torch.index_select(x.view(-1, 5), 0, (counts(x, 1, 1) + i).flatten()),
    "embedding": lambda x, i: F.embedding(i + counts(x, 1, 1), x.view(-1, 5)),
    "by steps": lambda x, i: x.view(-1, 5)[(i + torch.arange(0, x.shape[0] * POINTS, POINTS)[:, None, None]).view(-1)],
    "n times": lambda x, i: x.view(-1, 5)[i + POINTS * torch.arange(x.shape[0]).view(-1, 1, 1)],
    "planes": lambda x, i: (
        x.view(x.shape[0], POINTS, 5, 1).expand(-1, -1, -1, 2).reshape(-1, 5, 2)[i + counts(x, 1, 1)]
    ),
    "numbers": lambda x, i: x[:, :, 0].reshape(-1)[(i + counts(x, 1, 1)).reshape(-1)].view(-1, 1),
}


class Near(nn.Module):
    """Rows of the points nearest to each point."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take, self.layer = take, nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        near = (x @ x.transpose(1, 2)).topk(NEAR, dim=-1)[1]
        taken = self.take(self.layer(x), near)
        return taken.reshape(x.shape[0], POINTS, NEAR, -1).amax(2)


@pytest.mark.parametrize("way", WAYS)
def test_native_for_every_batch(way: str) -> None:
    model = Near(WAYS[way]).eval()
    fast = rt.compile(model, (torch.randn(2, POINTS, 5),), strict=True)
    for batch in (1, 2, 5):
        x = torch.randn(batch, POINTS, 5)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)


OTHERS: dict[str, Take] = {
    "of the next sample": lambda x, i: x.view(-1, 5)[(i + counts(x, 1, 1) + POINTS) % (x.shape[0] * POINTS)],
    "of the first sample": lambda x, i: x.view(-1, 5)[i + 0 * counts(x, 1, 1)],
    "of samples of another size": lambda x, i: x.view(-1, 5)[
        i + torch.arange(x.shape[0]).view(-1, 1, 1) * (POINTS - 1)
    ],
    "from the end": lambda x, i: x.view(-1, 5)[i + counts(x, 1, 1).flip(0)],
    "from the second on": lambda x, i: x.view(-1, 5)[
        i + (torch.arange(1, x.shape[0] + 1) * POINTS - 5).view(-1, 1, 1) - 6
    ],
}
"""Rows that are not those of the sample itself, or whose index says so otherwise."""


@pytest.mark.parametrize("way", OTHERS)
def test_rows_of_other_samples_stay_what_they_are(way: str) -> None:
    model = Near(OTHERS[way]).eval()
    x = torch.randn(3, POINTS, 5)
    fast = rt.compile(model, (x,))
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)
    y = torch.randn(3, POINTS, 5)
    torch.testing.assert_close(fast(y), model(y).detach(), rtol=1e-5, atol=1e-6)
