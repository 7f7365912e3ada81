"""Python that reads numbers of a model's own constants leaves the batch open: the trace has these numbers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

Read = Callable[[nn.Module, Tensor], Tensor]


def _edges(self: Any, x: Tensor) -> Tensor:
    """As networks of graphs do it: as many nodes as the edges name."""
    nodes = int(self.edges.max()) + 1
    return x.new_zeros(len(x), nodes).index_add(1, self.edges[1], x[:, self.edges[0]])


def _ready(self: Any, x: Tensor) -> Tensor:
    """As codebooks do it."""
    return x if self.ready else x * 0 - 1


def _masked(self: Any, x: Tensor) -> Tensor:
    """As coupling layers do it."""
    kept, put = x[:, self.mask], x.clone()
    put[:, ~self.mask] = kept.sum(1, keepdim=True)
    return put


def _places(self: Any, x: Tensor) -> Tensor:
    return x[:, self.mask.nonzero().squeeze(-1)].cumsum(1)


def _listed(self: Any, x: Tensor) -> Tensor:
    parts = x.split(self.times.tolist(), 1)
    return torch.stack([part.sum(1) for part in parts], 1)


def _written(self: Any, x: Tensor) -> Tensor:
    """A constant that is made in the call, step by step."""
    mask = torch.zeros(6)
    mask[::2] = 1
    mask[int(self.times[0])] += 2
    mask += self.times.repeat(2)[:6].float() * 0
    return x[:, mask > 0]


def _repeated(self: Any, x: Tensor) -> Tensor:
    return x[:, :3].repeat_interleave(self.times, 1)


def _unique(self: Any, x: Tensor) -> Tensor:
    found, back = torch.unique(self.edges, return_inverse=True)
    return x[:, found] + len(found) + back.float().sum()


def _numpy(self: Any, x: Tensor) -> Tensor:
    return x.roll(int(self.times.numpy()[1]), 1)


def _loop(self: Any, x: Tensor) -> Tensor:
    for place in torch.arange(6)[self.mask]:
        x = x + x[:, place, None]
    return x


READS: tuple[Read, ...] = (
    _edges, _ready, _masked, _places, _listed, _written, _repeated, _unique, _numpy, _loop,
)  # fmt: skip


class Reads(nn.Module):
    def __init__(self, *reads: Read, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.reads, self.layers = reads, nn.ModuleList(nn.LazyLinear(6) for _ in reads)
        self.register_buffer("edges", torch.randint(0, 6, (2, 9), generator=draw))
        self.register_buffer("ready", torch.tensor(seed % 2 == 0))
        self.register_buffer("mask", torch.arange(6) % 2 == seed % 2)
        self.times = torch.tensor([1, 2, 3])[torch.randperm(3, generator=draw)]

    def forward(self, x: Tensor) -> Tensor:
        for read, layer in zip(self.reads, self.layers):
            x = torch.tanh(layer(read(self, x)))
        return x


def made(*reads: Read, seed: int = 0) -> nn.Module:
    model = Reads(*reads, seed=seed).eval()
    with torch.no_grad():
        model(torch.randn(2, 6))
    return model


def check(model: nn.Module) -> None:
    fast = rt.compile(model, (torch.randn(2, 6),), strict=True)
    assert "batch size: dynamic" in fast.explain(measure=False)
    for size in (1, 2, 5):
        x = torch.randn(size, 6)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__.strip("_"))
def test_the_batch_stays_open(read: Read) -> None:
    check(made(read, seed=READS.index(read)))


@pytest.mark.parametrize("seed", range(6))
def test_several_reads_in_any_order(seed: int) -> None:
    check(made(*random.Random(seed).sample(READS, 3), seed=seed))


def test_a_fixed_batch_has_the_numbers_too() -> None:
    """As networks of graphs have kinds of edges: rows are nodes, and a mask of constants chooses edges."""

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.register_buffer("edges", torch.randint(0, 6, (2, 15)))
            self.register_buffer("kind", torch.arange(15) % 3)

        def forward(self, x: Tensor) -> Tensor:
            found = x
            for number, layer in enumerate(self.layers):
                edges = self.edges[:, self.kind == number]
                count = x.new_zeros(6, 1).index_add(0, edges[1], x.new_ones(edges.shape[1], 1)).clamp(min=1)
                found = found + layer(x.new_zeros(6, 4).index_add(0, edges[1], x[edges[0]]) / count)
            return found

    model, x = Kinds().eval(), torch.randn(6, 4)
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_model_keeps_its_constants_and_hooks() -> None:
    model = made(_written, _masked, _edges)
    before = copy.deepcopy(model.state_dict())
    rt.compile(model, (torch.randn(2, 6),))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model._forward_pre_hooks and not model._forward_hooks


def _element(seen: Tensor, x: Tensor) -> None:
    seen[1] = x.sum() > 0


def _whole(seen: Tensor, x: Tensor) -> None:
    seen.logical_or_(x.sum() > 0)


def _of_a_view(seen: Tensor, x: Tensor) -> None:
    seen.view(2, 2)[0].copy_(x[0, :2] > 0)


def _filled(seen: Tensor, x: Tensor) -> None:
    seen.masked_fill_(x[0] > 0, True)


def _out(seen: Tensor, x: Tensor) -> None:
    torch.logical_or(seen, x[0] > 0, out=seen)


WRITES = (_element, _whole, _of_a_view, _filled, _out)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.strip("_"))
def test_what_an_input_is_written_into_is_no_constant(write: Callable[[Tensor, Tensor], None]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([True, False, True, False]))

        def forward(self, x: Tensor) -> Tensor:
            seen = self.mask.clone()
            before = seen[1]
            write(seen, x)
            return x * 2 if bool(before) else x * 3 + x[:, self.mask].sum()

    model = Mixed().eval()
    fast = rt.compile(model, (torch.ones(2, 4),))
    for x in (torch.ones(2, 4), -torch.ones(2, 4)):
        torch.testing.assert_close(fast(x), model(x))
