"""Attention that is written out, with every way to hide keys: one stage, equal to torch also where all keys are hidden."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

LOWEST = torch.finfo(torch.float32).min
WAYS = (
    "masked_fill",
    "masked_fill_low",
    "where",
    "where_low",
    "added",
    "added_low",
    "clamped",
    "baddbmm",
    "both",
    "turned",
)


class Hidden(nn.Module):
    """Heads of a short sequence. way: how a random mask hides keys, of all from some queries."""

    def __init__(self, draw: random.Random, way: str) -> None:
        super().__init__()
        self.way, self.heads, self.depth, self.steps = (
            way,
            draw.choice((1, 2, 3)),
            draw.choice((2, 4, 8)),
            draw.choice((3, 7, 16)),
        )
        self.qkv = nn.Linear(5, 3 * self.heads * self.depth)
        shape = draw.choice(((self.steps,), (self.heads, self.steps)))
        hidden = torch.rand(*shape, self.steps) < 0.4
        hidden[..., 0, :] = draw.random() < 0.5
        self.register_buffer("hidden", hidden)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), self.steps, 3, self.heads, self.depth).permute(2, 0, 3, 1, 4).unbind(0)
        low = (
            LOWEST if self.way in ("masked_fill_low", "where_low", "added_low", "clamped", "baddbmm") else float("-inf")
        )
        added = torch.zeros(self.hidden.shape).masked_fill(self.hidden, low)
        if self.way == "baddbmm":
            q, k = (part.reshape(-1, self.steps, self.depth) for part in (q, k))
            bias = added.expand(self.heads, self.steps, self.steps).repeat(len(x), 1, 1)
            scores = bias.baddbmm(q, k.mT, beta=1.0, alpha=0.3).view(len(x), self.heads, self.steps, self.steps)
        else:
            scores = q @ k.mT * 0.3
        if self.way.startswith("masked_fill"):
            scores = scores.masked_fill(self.hidden, low)
        elif self.way.startswith("where"):
            scores = torch.where(~self.hidden, scores, torch.tensor(low))
        elif self.way == "both":
            scores = scores.masked_fill(self.hidden, LOWEST) + added.clamp(min=LOWEST)
        elif self.way == "turned":
            scores = added + scores
        elif self.way != "baddbmm":
            scores = scores + added
        if self.way == "clamped":
            scores = torch.max(scores, torch.tensor(LOWEST))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_hidden_keys(way: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = Hidden(random.Random(seed), way).eval()
    x = torch.randn(2, model.steps, 5)
    fast = rt.compile(model, (x,))
    assert "attention(" in str(fast.explain(measure=False))
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5, equal_nan=True)


class Joined(nn.Module):
    """Samples and heads are one dimension. way: how a constant of each head is repeated over the samples and read; behind: the
    samples lie inside of the heads."""

    def __init__(self, draw: random.Random, way: str, behind: bool) -> None:
        super().__init__()
        self.way, self.behind = way, behind
        self.heads, self.depth, self.steps = draw.choice((1, 2, 3)), draw.choice((2, 4)), draw.choice((3, 7))
        self.qkv = nn.Linear(5, 3 * self.heads * self.depth)
        hidden = torch.rand(draw.choice((1, self.heads)), self.steps, self.steps) < 0.4
        self.register_buffer("hidden", hidden.expand(self.heads, -1, -1).clone())
        self.register_buffer("bias", torch.randn(self.heads, 1, self.steps))

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        heads = (2, 3, 0, 1, 4) if self.behind else (2, 0, 3, 1, 4)
        q, k, v = (
            part.reshape(-1, self.steps, self.depth)
            for part in self.qkv(x).view(n, self.steps, 3, self.heads, self.depth).permute(heads).unbind(0)
        )
        hidden, bias = self.hidden.repeat(n, 1, 1), self.bias.repeat(n, 1, 1)
        scores = bias.baddbmm(q, k.mT, beta=0.5, alpha=0.3) if self.way == "baddbmm" else torch.bmm(q, k.mT) * 0.3
        if self.way == "added":
            scores = scores + bias
        elif self.way == "masked_fill":
            scores = scores.masked_fill(hidden, LOWEST)
        elif self.way == "where":
            scores = scores.where(~hidden, torch.tensor(LOWEST))
        y = torch.bmm(scores.softmax(-1), v).view(
            *((self.heads, n) if self.behind else (n, self.heads)), self.steps, -1
        )
        return (y.permute(1, 2, 0, 3) if self.behind else y.transpose(1, 2)).flatten(2)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("way", ["baddbmm", "added", "masked_fill", "where"])
@pytest.mark.parametrize("seed", range(5))
def test_samples_and_heads_in_one_dimension(way: str, behind: bool, seed: int) -> None:
    """`verify=False` gives no wrong answer either, at any batch."""
    torch.manual_seed(seed)
    model = Joined(random.Random(seed), way, behind).eval()
    fast = rt.compile(model, (torch.randn(2, model.steps, 5),), verify=False)
    assert behind or "attention(" in str(fast.explain(measure=False))
    for n in (2,) if behind else (1, 2, 3, 5):  # a mask row by row over heads of samples is one of a fixed batch
        x = torch.randn(n, model.steps, 5)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
