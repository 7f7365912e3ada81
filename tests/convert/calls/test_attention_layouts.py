"""Attention over sequences inside a sample, however its heads and sequences are dimensions: one stage, equal to torch."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt


class Windows(nn.Module):
    """Heads of the windows of a series of rows, in a random order of dimensions, by torch's call or written out."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.heads, self.depth = draw.choice((1, 2, 4)), draw.choice((3, 8, 16))
        self.count, self.steps = draw.choice((1, 3, 6)), draw.choice((2, 5, 8))
        self.layout = draw.choice(("apart", "merged", "one", "strided"))
        self.written = draw.random() < 0.6
        self.product = draw.choice(("@", "einsum", "bmm", "norms"))
        self.scaled = draw.choice(("scores", "queries", "keys")) if self.written else "scores"
        if self.product == "bmm" and (self.layout == "strided" or self.scaled != "scores"):
            self.product = "@"  # heads, sequences and samples in one dimension are found in some orders alone
        width = self.heads * self.depth
        self.qkv, self.out = nn.Linear(7, 3 * width), nn.Linear(width, 4)
        masks = {} if self.layout == "one" else self._masks(draw)
        for name in ("heads", "windows", "last"):
            if name in masks:
                self.register_buffer(f"of_{name}", masks[name])
            else:
                setattr(self, f"of_{name}", None)
        self.example = torch.randn(2, self.count * self.steps, 7)

    def _masks(self, draw: random.Random) -> dict[str, Tensor]:
        size, found = (self.steps, self.steps), {}
        if draw.random() < 0.5:
            found["heads"] = torch.randn(*draw.choice(((), (1,))), self.heads, *size)
        if draw.random() < 0.5 and (self.written or self.layout == "apart"):
            found["windows"] = torch.randn(self.count, 1, *size)
        if draw.random() < 0.3:
            found["last"] = torch.zeros(*size).masked_fill(torch.ones(size).triu(1) > 0, float("-inf"))
        return found

    def forward(self, x: Tensor) -> Tensor:
        b, n, t, h, d = x.shape[0], self.count, self.steps, self.heads, self.depth
        y = self.qkv(x)
        if self.layout == "apart":
            y = y.view(b, n, t, 3, h, d).permute(3, 0, 1, 4, 2, 5)
        elif self.layout == "strided":
            y = y.view(b, t, n, 3, h, d).permute(3, 0, 2, 4, 1, 5)
        else:
            y = y.view(b * n, t, 3, h, d).permute(2, 0, 3, 1, 4)
            y = y.reshape(3, -1, t, d) if self.layout == "one" else y
        o = self._written(*y.unbind(0)) if self.written else self._fused(*y.unbind(0))
        if self.layout == "strided":
            return self.out(o.permute(0, 3, 1, 2, 4).reshape(b, n * t, h * d))
        return self.out(o.reshape(b, n, h, t, d).transpose(2, 3).reshape(b, n * t, h * d))

    def _fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        masks = [m for m in (self.of_heads, self.of_windows, self.of_last) if m is not None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=sum(masks[1:], masks[0]) if masks else None)

    def _written(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.product == "norms":  # their rows are heads
            q, k = F.rms_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        q = q * 0.3 if self.scaled == "queries" else q
        k = k / 4 if self.scaled == "keys" else k
        scores = self._product(q, k.transpose(-2, -1), "...id,...jd->...ij", k)
        scores = scores * 0.3 if self.scaled == "scores" else scores
        scores = scores if self.of_heads is None else scores + self.of_heads
        if self.of_windows is not None:
            shape = scores.shape
            scores = (scores.view(-1, self.count, self.heads, self.steps, self.steps) + self.of_windows).view(shape)
        scores = scores if self.of_last is None else scores + self.of_last
        return self._product(scores.softmax(-1), v, "...ij,...jd->...id", v)

    def _product(self, a: Tensor, b: Tensor, equation: str, other: Tensor) -> Tensor:
        if self.product == "einsum":
            return torch.einsum(equation, a, other)
        if self.product == "bmm":
            joined = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]))
            return joined.view(*a.shape[:-1], b.shape[-1])
        return a @ b


@pytest.mark.parametrize("seed", range(60))
def test_windows_are_one_stage_and_equal_torch(seed: int) -> None:
    torch.manual_seed(seed)
    model = Windows(random.Random(seed)).eval()
    fast, x = rt.compile(model, (model.example,), strict=True), torch.randn(3, *model.example.shape[1:])
    text = fast.explain()
    assert text.count(" attention(") == 1 and " softmax(" not in text and " matmul(" not in text
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(fast(x).double(), want, rtol=2e-5, atol=2e-5)


def test_a_mask_of_each_sample_stays_as_it_is_written() -> None:
    """Of a batch that is fixed by it: samples are sequences then, and each has its own."""
    mask = torch.randn(2, 1, 5, 5)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            y = x.view(2, 5, 2, 4).transpose(1, 2)
            return F.scaled_dot_product_attention(y, y, y, attn_mask=self.mask)

    model, x = Own().eval(), torch.randn(2, 5, 8)
    torch.testing.assert_close(rt.compile(model, (x,), strict=True)(x), model(x), rtol=1e-5, atol=1e-5)
