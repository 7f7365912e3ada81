"""A graph as a list of calls, drawn from a seed; it runs in any dtype, and with noise on what each call reads."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SAMPLES = 11
"""Of the inputs that a graph is drawn on. No other dimension of an input has this size."""
MAX_ELEMENTS = 11_000
MAX_VALUE = 100.0

INPUTS: tuple[tuple[int, ...], ...] = (
    (17,),
    (16,),
    (1,),
    (4, 8),
    (6, 5),
    (2, 9, 7),
    (4, 6, 6),
    (1, 8, 8),
    (2, 4, 5, 4),
)
"""Shapes of a sample of the inputs that graphs read, float32."""

Call = Callable[..., Tensor]
Noise = Callable[[Tensor], Tensor]


class Draw(random.Random):
    """The numbers that decide a node, and its parameters."""

    def of(self, *choices):
        return self.choice(choices)

    def dim(self, x: Tensor, more: int = 0) -> int:
        """A dimension of a sample. Raises ValueError where there is none."""
        if x.dim() + more < 2:
            raise ValueError("no dimension")
        return self.randrange(1, x.dim() + more)

    def tensor(self, *shape: int) -> Tensor:
        made = torch.Generator().manual_seed(self.getrandbits(31))
        return torch.randn(shape, generator=made)


@dataclass(frozen=True)
class Made:
    """What a table makes of its drawn numbers: the call, the layer whose parameters it reads, and whether it computes.

    call: of the two values, and of the layer before them where there is one. exact: it moves numbers and rounds nothing, so that
    its reference needs no noise.
    """

    call: Call
    layer: nn.Module | None = None
    exact: bool = False


Kind = Callable[[Draw, Tensor, Tensor], Made]
"""Of the numbers, the value that is read and another one. Raises ValueError for values that it does not take."""


@dataclass(frozen=True)
class Node:
    """call: of the layer at `layer`, or of none, and the values at `here` and `other`. words: for a message."""

    call: Call
    layer: int | None
    here: int
    other: int
    exact: bool
    words: str


class Graph(nn.Module):
    """A few calls on one input. noise: on every floating value that a call reads that computes, and on its result."""

    def __init__(self, seed: int, kinds: tuple[Kind, ...], nodes: int | None = None) -> None:
        super().__init__()
        self.seed, self._kinds = seed, kinds
        self.noise: Noise | None = None
        draw = Draw(seed)
        self.input = draw.randrange(len(INPUTS))
        values = [torch.randn(SAMPLES, *INPUTS[self.input], generator=torch.Generator().manual_seed(seed)).double()]
        self.nodes: list[Node] = []
        self.layers = nn.ModuleList()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are not taken, as a variance of one number
            for _ in range(draw.randint(2, 7)):
                self._add(draw, values)
        self.second = draw.randrange(1, len(values)) if draw.random() < 0.25 else 0
        if nodes is not None:
            self.nodes, self.second = self.nodes[:nodes], 0
        self.eval().float().requires_grad_(False)

    def _add(self, draw: Draw, values: list[Tensor]) -> None:
        while True:
            here, other = draw.randrange(max(0, len(values) - 2), len(values)), draw.randrange(len(values))
            kind = draw.choice(self._kinds)
            try:
                made = kind(draw, values[here], values[other])
                layers = () if made.layer is None else (made.layer.eval().double().requires_grad_(False),)
                found = made.call(*layers, values[here], values[other])
                alone = made.call(*layers, values[here][:1], values[other][:1])
            except (RuntimeError, IndexError, ValueError):  # it does not take such values
                continue
            fits = found.dim() > 0 and found.shape[0] == SAMPLES and 0 < found.numel() <= MAX_ELEMENTS
            if fits and bool(found.isfinite().all()) and found.abs().max() < MAX_VALUE and _same(alone, found[:1]):
                values.append(found.double())
                words = f"{kind.__name__}({here}, {other}) -> {list(found.shape)}"
                self.nodes.append(Node(made.call, len(self.layers) if layers else None, here, other, made.exact, words))
                self.layers.extend(layers)
                return

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = [inputs[self.input]]
        for node in self.nodes:
            layers = () if node.layer is None else (self.layers[node.layer],)
            here, other, noise = values[node.here], values[node.other], self.noise
            if noise is None or node.exact:
                values.append(node.call(*layers, here, other))
            else:
                values.append(noise(node.call(*layers, noise(here), noise(other))))
        return [values[-1], values[self.second]] if self.second else [values[-1]]

    def words(self) -> str:
        return f"seed {self.seed}, {list(INPUTS[self.input])}: " + "; ".join(node.words for node in self.nodes)


def _same(alone: Tensor, found: Tensor) -> bool:
    """Whether a sample has its result whatever the others are."""
    return alone.shape == found.shape and torch.allclose(alone.double(), found.double())
