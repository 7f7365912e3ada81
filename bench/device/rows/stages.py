"""Single operations in float32 that PyTorch has in several launches, by name: transforms, orders, writing by index, systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Apply(nn.Module):
    """One function of x."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Scattered(nn.Module):
    """Messages of edges, added up at the nodes that they lead to."""

    index: Tensor

    def __init__(self, nodes: int, edges: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.register_buffer("index", torch.arange(edges) * 7919 % nodes)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.nodes, x.shape[2]).index_add(1, self.index, x)


class Attention(nn.Module):
    """Of tokens [batch, tokens, heads * size] among themselves."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        split = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(split, split, split).transpose(1, 2).flatten(2)


class NewestOfRnn(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(size, size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0][:, -1]
        return y


@dataclass(frozen=True)
class Operation:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def trees(count: int, levels: int, features: int) -> nn.Module:
    """With one target. In PyTorch all of them go down one level at a time."""
    from rtaccel.kernels.tree_ensemble.contract import random_tables
    from rtaccel.nn import TreeEnsemble

    t = random_tables(count, features, 1, levels)
    return TreeEnsemble(features, t["feature"], t["threshold"], t["child"], t["value"], t["root"], t["nan_first"])


def solved(x: Tensor) -> Tensor:
    """Of matrices that have an inverse: a diagonal of their size is added."""
    return torch.linalg.solve(x + x.shape[-1] * torch.eye(x.shape[-1], device=x.device), x[..., :1])


OPERATIONS: dict[str, Operation] = {
    "spectrum of 100 frames of 400": Operation(lambda: Apply(lambda x: torch.fft.rfft(x).abs()), (1, 100, 400)),
    "running sums of 8 lines of 4096": Operation(lambda: Apply(lambda x: x.cumsum(-1)), (1, 8, 4096)),
    "sort of 8 lines of 1024": Operation(lambda: Apply(lambda x: x.sort(dim=-1).values), (1, 8, 1024)),
    "largest of 50257": Operation(lambda: Apply(lambda x: x.argmax(-1).float()), (1, 1, 50257)),
    "2048 messages to 256 nodes": Operation(lambda: Scattered(256, 2048), (1, 2048, 64)),
    "a system of 16": Operation(lambda: Apply(solved), (1, 16, 16)),
    "attention of 128 tokens, 8 heads of 32": Operation(lambda: Attention(8), (1, 128, 256)),
    "50 time steps of an RNN 64-64": Operation(lambda: NewestOfRnn(64), (1, 50, 64)),
    "100 trees of 6 levels, 12 features": Operation(lambda: trees(100, 6, 12), (1, 12)),
    "500 trees of 6 levels, 30 features": Operation(lambda: trees(500, 6, 30), (1, 30)),
}


def many(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, x, h) of "N streams of GRU-S, ...": a cell of S units for N streams, of S numbers each."""
    streams, size = int(name.split()[0]), int(name.split(",")[0].rpartition("-")[2])
    return nn.GRUCell(size, size).eval(), torch.randn(streams, size), torch.randn(streams, size)


class Held(nn.Module):
    """A model of several inputs with all but the first of them kept, as torch's own ways to run one take a single x."""

    def __init__(self, model: nn.Module, *kept: Tensor) -> None:
        super().__init__()
        self.model = model
        for i, tensor in enumerate(kept):
            self.register_buffer(f"kept{i}", tensor)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x, *self.buffers(recurse=False))
        return y


def operation(name: str) -> tuple[nn.Module, Tensor]:
    """(model, x on the CPU)"""
    found = OPERATIONS[name]
    return found.make().eval(), torch.randn(*found.shape)


TOKENS = {"encoder of 6 layers, 32 tokens": 32}


def tokens(name: str) -> tuple[nn.Module, Tensor]:
    """(the encoder of `bench.peers`, a sample of so many tokens)."""
    from bench.peers.models import BY_NAME

    return BY_NAME["encoder"].module().eval(), torch.randn(1, TOKENS[name], 384)
