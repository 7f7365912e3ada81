"""Movement, choice and arithmetic in every dtype that a plan holds, with constants among the parts: exactly torch's numbers, all
native."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
SMALL = (torch.uint8, torch.int8, torch.int16)
WHOLE = (torch.int64, torch.int32, *SMALL)
DTYPES = (torch.float32, *WHOLE, torch.bool)
Step = Callable[[Tensor], Tensor]


def numbers(rng: random.Random, dtype: torch.dtype, *shape: int) -> Tensor:
    """Those of int32 and int64 are such as float32 does not hold; small ones have both ends."""
    torch.manual_seed(rng.randrange(1 << 30))
    if dtype == torch.float32:
        return torch.randn(*shape)
    if dtype in SMALL:
        info = torch.iinfo(dtype)
        made = torch.randint(info.min, info.max + 1, shape)
        return torch.where(torch.rand(shape) < 0.2, rng.choice((info.min, info.max)), made).to(dtype)
    most = {torch.bool: 2, torch.int32: 1 << 31, torch.int64: 1 << 62}[dtype]
    return torch.randint(0 if dtype == torch.bool else -most, most, shape).to(dtype)


def joined(rng: random.Random, x: Tensor) -> Step:
    dim, front = rng.randrange(1, x.dim()), rng.random() < 0.5
    shape = [1, *x.shape[1:]]
    shape[dim] = rng.randint(1, 9)
    own = numbers(rng, x.dtype, *shape)

    def step(x: Tensor) -> Tensor:
        more = own.expand(x.shape[0], *own.shape[1:])
        return torch.cat([more, x] if front else [x, more, x], dim)

    return step


def padded(rng: random.Random, x: Tensor) -> Step:
    value = float(numbers(rng, x.dtype, 1)) if x.dtype in (torch.float32, *SMALL) else rng.randint(0, 1)
    by = tuple(rng.randint(-1 if n > 2 else 0, 3) for n in reversed(x.shape[1:]) for _ in range(2))
    return lambda x: F.pad(x, by, value=value)


def written(rng: random.Random, x: Tensor) -> Step:
    """A part of one tensor over another, one of them a constant."""
    dim = rng.randrange(1, x.dim())
    start = rng.randrange(x.shape[dim])
    end = rng.randint(start + 1, x.shape[dim])
    onto, own = rng.random() < 0.5, numbers(rng, x.dtype, 1, *x.shape[1:])
    one, uniform = rng.random() < 0.3, rng.random() < 0.3

    def step(x: Tensor) -> Tensor:
        whole = own.expand_as(x) if not uniform else torch.ones_like(x)
        below, above = (whole, x) if onto else (x, whole)
        if one:
            return torch.select_scatter(below, above.select(dim, start), dim, start)
        return torch.slice_scatter(below, above.narrow(dim, start, end - start), dim, start, end)

    return step


def stacked(rng: random.Random, x: Tensor) -> Step:
    dim, own = rng.randint(1, x.dim()), numbers(rng, x.dtype, 1, *x.shape[1:])
    return lambda x: torch.stack([x, own.expand_as(x)], dim).flatten(1, 2)


def chosen(rng: random.Random, x: Tensor) -> Step:
    own, mask = numbers(rng, x.dtype, *x.shape[1:]), numbers(rng, torch.bool, *x.shape[1:])
    swaps = rng.random() < 0.5
    return lambda x: torch.where(mask & (x == x.flip(-1)), own, x) if swaps else torch.where(mask & (x != 1), x, own)


def filled(rng: random.Random, x: Tensor) -> Step:
    value = rng.choice((0, 1))
    return lambda x: x.masked_fill(x == 1 - value, value)


def bounded(rng: random.Random, x: Tensor) -> Step:
    own = numbers(rng, x.dtype, *x.shape[1:])
    if x.dtype == torch.bool:
        return lambda x: x & own
    return rng.choice((lambda x: torch.maximum(x, own), lambda x: torch.minimum(x, own), lambda x: x.clamp(1, 3)))


def turned(rng: random.Random, x: Tensor) -> Step:
    dim, by = rng.randrange(1, x.dim()), rng.randint(1, 5)
    at = torch.tensor([rng.randrange(x.shape[dim]) for _ in range(rng.randint(1, 6))])
    return rng.choice(
        (
            lambda x: x.roll(by, dim),
            lambda x: x.flip(dim),
            lambda x: x.index_select(dim, at),
            lambda x: x.repeat_interleave(2, dim),
            lambda x: x.transpose(1, -1),
        )
    )


def cast(rng: random.Random, x: Tensor) -> Step:
    """To a dtype that holds the numbers."""
    wider = {
        torch.bool: DTYPES,
        **dict.fromkeys(SMALL, DTYPES),
        torch.int32: (*WHOLE, torch.bool),
        torch.int64: (*WHOLE, torch.bool),
        torch.float32: (torch.bool,),
    }[x.dtype]
    to = rng.choice(wider)
    return lambda x: x.to(to)


def rounded(rng: random.Random, x: Tensor) -> Step:
    """Of real numbers, to a dtype that holds them; fractions go toward zero."""
    if x.dtype != torch.float32:
        return cast(rng, x)
    to = rng.choice(WHOLE)
    low, high = max(torch.iinfo(to).min, -40_000), min(torch.iinfo(to).max, 40_000)
    return lambda x: (x * 100).clamp(low, high).to(to)


def computed(rng: random.Random, x: Tensor) -> Step:
    """Sums, products and bits, which wrap."""
    if x.dtype not in WHOLE:
        return rounded(rng, x)
    own, by = numbers(rng, x.dtype, *x.shape[1:]), rng.randint(0, 7)
    return rng.choice(
        (
            lambda x: x + own, lambda x: own - x, lambda x: x * own, lambda x: 3 - x, lambda x: x * x + own, lambda x: -x,
            lambda x: x.abs(), lambda x: (x & own) ^ (x | 5), lambda x: ~x, lambda x: x >> by, lambda x: x << by,
            lambda x: (x < own) | (x == 3), lambda x: x % 7, lambda x: x // 3, lambda x: x.sum(-1, keepdim=True) + x,
        )
    )  # fmt: skip


STEPS = (
    joined,
    joined,
    padded,
    written,
    written,
    stacked,
    chosen,
    filled,
    bounded,
    turned,
    cast,
    rounded,
    computed,
    computed,
)


class Drawn(nn.Module):
    """Steps drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        dtype, shape = rng.choice(DTYPES), [rng.randint(1, 9) for _ in range(rng.randint(1, 3))]
        self.given = numbers(rng, dtype, 3, *shape)
        self.other = numbers(rng, dtype, 2, *shape)
        self.words, self.steps, x = [f"seed {seed}, {dtype}, {shape}"], [], self.given
        for _ in range(rng.randint(1, 5)):
            kind = rng.choice(STEPS)
            step = kind(rng, x)
            if 0 in step(x).shape or step(x).numel() > 20_000:
                continue
            self.steps.append(step)
            x = step(x)
            self.words.append(f"{kind.__name__} -> {x.dtype} {list(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


@pytest.mark.parametrize("seed", range(120))
def test_equals_torch(seed: int) -> None:
    model = Drawn(seed).eval()
    fast = rt.compile(model, model.given, verify=False, strict=True)  # strict: nothing is left to PyTorch
    for x in (model.given, model.other):
        want = model(x)
        got = fast(x)
        assert got.dtype == want.dtype and torch.equal(got, want), "; ".join(model.words)
