"""flex_attention with random functions of scores and masks, beside torch's in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import rtaccel as rt

TOKENS, WIDTH = 12, 8


class Attention(nn.Module):
    """Queries, keys and values of one layer; functions by random choices."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.heads, self.shared = draw.choice(((4, 1), (2, 1), (4, 2), (3, 3)))
        self.q, self.kv = nn.Linear(6, self.heads * WIDTH), nn.Linear(6, 2 * self.shared * WIDTH)
        self.mod = draw.choice(("none", "bias", "table", "distance", "softcap", "scaled", "softcap and bias"))
        self.mask = draw.choice(("none", "causal", "window", "documents", "nothing for some"))
        self.made_inside, self.scale = draw.random() < 0.5, draw.choice((None, 0.5))
        self.slopes = nn.Parameter(torch.randn(self.heads))
        self.table = nn.Parameter(torch.randn(self.heads, 2 * TOKENS))
        self.register_buffer("document", torch.sort(torch.randint(0, 3, (TOKENS,))).values)
        self.block_mask = None if self.mask == "none" or self.made_inside else self.blocks()

    def __repr__(self) -> str:
        return f"{self.heads} of {self.shared}, {self.mod}, {self.mask}"

    def blocks(self) -> Any:
        return create_block_mask(lambda b, h, i, j: self.seen(b, h, i, j), None, None, TOKENS, TOKENS, device="cpu")

    def seen(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return {
            "causal": lambda: i >= j,
            "window": lambda: (i - j).abs() < 3 + h,
            "documents": lambda: self.document[i] == self.document[j],
            "nothing for some": lambda: (i >= j) & (i > 2),
        }[self.mask]()

    def changed(self, score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return {
            "bias": lambda: score + self.slopes[h],
            "table": lambda: self.table[h, i - j + TOKENS] + score,
            "distance": lambda: score - self.slopes[h] * (i - j).abs(),
            "softcap": lambda: torch.tanh(score / 3) * 3,
            "scaled": lambda: score * torch.exp(self.slopes[h]),
            "softcap and bias": lambda: torch.tanh(score / 3) * 3 + (j - i),
        }[self.mod]()

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, WIDTH)).transpose(1, 2)
        k, v = (t.transpose(1, 2) for t in self.kv(x).unflatten(-1, (2, self.shared, WIDTH)).unbind(2))
        mask = self.blocks() if self.mask != "none" and self.made_inside else self.block_mask
        mod = None if self.mod == "none" else lambda score, b, h, i, j: self.changed(score, b, h, i, j)
        y = flex_attention(q, k, v, score_mod=mod, block_mask=mask, scale=self.scale, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)


@pytest.mark.turns(3)
@pytest.mark.parametrize("seed", range(12))
def test_random_functions(seed: int) -> None:
    torch.manual_seed(seed)
    model = Attention(seed).eval().requires_grad_(False)
    fast = rt.compile(model, (torch.randn(2, TOKENS, 6),), strict=True)
    assert seed or fast.explain()
    for batch in (1, 3):
        x = torch.randn(batch, TOKENS, 6)
        got = fast(x).double()
        want = model.double()(x.double())
        model.float()
        assert (got - want).abs().max() < 1e-5, repr(model)


def test_a_bias_and_a_mask_are_one_attention() -> None:
    torch.manual_seed(0)
    wanted = {("table", "causal"), ("distance", "documents")}
    made = [m for seed in range(300) if ((m := Attention(seed)).mod, m.mask) in wanted][:4]
    assert {(m.mod, m.mask) for m in made} == wanted
    for model in made:
        told = rt.compile(model.eval(), (torch.randn(2, TOKENS, 6),), strict=True).explain()
        assert " attention(" in told
        assert " softmax(" not in told


def test_sums_of_scores_that_are_asked_for_stay_as_they_are() -> None:
    class Both(nn.Module):
        def forward(self, q: Tensor) -> Any:
            return flex_attention(q, q, q, return_lse=True)

    q = torch.randn(1, 2, TOKENS, WIDTH)
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(Both().eval(), (q,))
    for a, b in zip(fast(q), Both()(q)):
        torch.testing.assert_close(a, b)


class Causal(nn.Module):
    """Attention to the last few tokens, with a bias by distance or without."""

    def __init__(self, biased: bool) -> None:
        super().__init__()
        self.qkv, self.slopes, self.biased = nn.Linear(6, 48), nn.Parameter(torch.rand(2)), biased

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, WIDTH)).permute(2, 0, 3, 1, 4)
        mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < 5), None, None, tokens, tokens, device="cpu")
        mod = (lambda score, b, h, i, j: score - self.slopes[h] * (i - j)) if self.biased else None
        return flex_attention(q, k, v, score_mod=mod, block_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("biased", [False, True])
def test_a_window_of_tokens_streams(biased: bool) -> None:
    torch.manual_seed(1)
    model = Causal(biased).eval().requires_grad_(False)
    live, x = rt.stream(model, torch.randn(1, 6)), torch.randn(1, 14, 6)
    got = torch.stack([live.step(x[:, t].contiguous()) for t in range(14)], 1)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)
