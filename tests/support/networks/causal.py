"""Causal transformers as people write them: every way to mask, to place and to write attention out, by options."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 48
"""Rows of learned positions."""


@dataclass(frozen=True)
class Style:
    """How attention is written, masked and placed. window: steps that a query sees, 0 for all so far. kv: heads of keys and
    values. norm: of the block. every: whether every time step is returned."""

    attention: str = "sdpa"
    positions: str = "none"
    norm: str = "layer"
    heads: int = 2
    kv: int = 2
    head_dim: int = 4
    layers: int = 2
    window: int = 0
    bias: str = "none"
    query_norm: bool = False
    every: bool = False

    @staticmethod
    def random(seed: int) -> Style:
        r = random.Random(seed)
        heads = r.choice((1, 2, 3, 4, 6))
        return Style(
            attention=r.choice(("sdpa", "matmul", "einsum", "bmm", "baddbmm", "where", "clamped")),
            positions=r.choice(("none", "learned", "sines", "rotary", "interleaved")),
            norm=r.choice(("layer", "rms", "handwritten")),
            heads=heads,
            kv=r.choice([k for k in (1, 2, 3, heads) if heads % k == 0]),
            head_dim=r.choice((2, 4, 6, 8, 16, 18)),
            layers=r.choice((1, 1, 2)),
            window=r.choice((0, 0, 1, 2, 5, 13)),
            bias=r.choice(("none", "none", "alibi", "learned", "keys")),
            query_norm=r.random() < 0.3,
            every=r.random() < 0.3,
        )

    def __str__(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self))


class HandwrittenNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


WRITTEN_LOW = ("baddbmm", "where", "clamped")
"""Ways to write attention whose masks hold the lowest number of float32 in place of an infinity."""

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "handwritten": HandwrittenNorm}


def rotated(x: Tensor, interleaved: bool) -> Tensor:
    """x [batch, heads, time, head_dim] by angles of its time step."""
    time, d = x.shape[-2:]
    angle = torch.arange(time)[:, None] / 100.0 ** (torch.arange(0, d, 2) / d)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.stack(turned, -1).flatten(-2)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1) * sin


class Attention(nn.Module):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style, width = style, style.heads * style.head_dim
        self.qkv = nn.Linear(width, width + 2 * style.kv * style.head_dim, bias=style.norm == "layer")
        self.out = nn.Linear(width, width)
        self.by_distance = nn.Parameter(torch.randn(style.heads, LONGEST))
        if style.query_norm:
            self.of_query, self.of_key = NORMS[style.norm](style.head_dim), NORMS[style.norm](style.head_dim)

    def mask(self, time: int) -> Tensor:
        """[heads, time, time], added to the scores."""
        age = torch.arange(time)[:, None] - torch.arange(time)
        seen = (age >= 0) & (age < (self.style.window or time))
        added = torch.zeros(self.style.heads, time, time)
        if self.style.bias == "alibi":
            added = -age.abs() * 2.0 ** -torch.arange(1, self.style.heads + 1)[:, None, None]
        elif self.style.bias == "learned":
            added = self.by_distance[:, age.clamp(0, LONGEST - 1)]
        elif self.style.bias == "keys":  # ALiBi by the number of a key
            added = torch.arange(time).expand(time, time) * 2.0 ** -torch.arange(1, self.style.heads + 1)[:, None, None]
        lowest = torch.finfo(torch.float32).min if self.style.attention in WRITTEN_LOW else float("-inf")
        return added.masked_fill(~seen, lowest)

    def forward(self, x: Tensor) -> Tensor:
        s, (batch, time, width) = self.style, x.shape
        parts = self.qkv(x).split([width, s.kv * s.head_dim, s.kv * s.head_dim], -1)
        q, k, v = (part.view(batch, time, -1, s.head_dim).transpose(1, 2) for part in parts)
        if s.query_norm:
            q, k = self.of_query(q), self.of_key(k)
        if s.positions in ("rotary", "interleaved"):
            q, k = (rotated(part, s.positions == "interleaved") for part in (q, k))
        if s.kv != s.heads:
            k, v = (part.repeat_interleave(s.heads // s.kv, 1) for part in (k, v))
        plain = not s.window and s.bias == "none"
        if s.attention == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, None if plain else self.mask(time), is_causal=plain)
        elif s.attention == "einsum":
            scores = torch.einsum("b h i d, b h j d -> b h i j", q * s.head_dim**-0.5, k) + self.mask(time)
            y = torch.einsum("b h i j, b h j d -> b h i d", scores.softmax(-1, dtype=torch.float32), v)
        elif s.attention == "bmm":
            q, k, v = (part.reshape(batch * s.heads, time, s.head_dim) for part in (q, k, v))
            scores = torch.bmm(q, k.transpose(1, 2)).view(batch, s.heads, time, time) / s.head_dim**0.5 + self.mask(
                time
            )
            y = torch.bmm(scores.softmax(-1).view(batch * s.heads, time, time), v).view(batch, s.heads, time, -1)
        elif s.attention == "baddbmm":
            q, k, v = (part.reshape(batch * s.heads, time, s.head_dim) for part in (q, k, v))
            scores = self.mask(time).repeat(batch, 1, 1).baddbmm(q, k.transpose(1, 2), beta=1.0, alpha=s.head_dim**-0.5)
            y = torch.bmm(scores.softmax(-1), v).view(batch, s.heads, time, -1)
        elif s.attention == "where":
            seen, low = torch.ones(time, time, dtype=torch.bool).tril(), torch.finfo(torch.float32).min
            scores = torch.where(seen, q @ k.mT / s.head_dim**0.5, torch.tensor(low))
            y = (self.mask(time) + scores).softmax(-1) @ v
        elif s.attention == "clamped":
            scores = q @ k.mT / s.head_dim**0.5 + self.mask(time)
            y = torch.max(scores, torch.tensor(torch.finfo(torch.float32).min)).softmax(-1) @ v
        else:
            hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
            scores = (q @ k.mT * s.head_dim**-0.5).masked_fill(hidden, float("-inf"))
            y = (scores if plain else scores + self.mask(time)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class CausalTransformer(nn.Module):
    """Windows [batch, time, features] to 3 numbers for the newest time step, or for every one."""

    def __init__(self, style: Style, features: int = 5) -> None:
        super().__init__()
        width = style.heads * style.head_dim
        self.style, self.first, self.head = style, nn.Linear(features, width), nn.Linear(width, 3)
        self.table = nn.Parameter(torch.randn(LONGEST, width) * 0.3)
        self.layers = nn.ModuleList()
        for _ in range(style.layers):
            feed = nn.Sequential(
                NORMS[style.norm](width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )
            self.layers.append(nn.ModuleList([NORMS[style.norm](width), Attention(style), feed]))

    def forward(self, x: Tensor) -> Tensor:
        time, y = x.shape[1], self.first(x)
        if self.style.positions == "learned":
            y = y + self.table[:time]
        elif self.style.positions == "sines":
            at = torch.arange(time)[:, None] / 50.0 ** (torch.arange(y.shape[-1]) / y.shape[-1])
            y = y + torch.where(torch.arange(y.shape[-1]) % 2 == 0, at.sin(), at.cos())
        for norm, attention, feed in self.layers:  # type: ignore[misc]
            y = y + attention(norm(y))
            y = y + feed(y)
        return self.head(y if self.style.every else y[:, -1])
