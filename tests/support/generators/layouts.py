"""Modules drawn from a seed that turn, join and divide dimensions around layers. There are few sizes, so different ones agree.

A dimension is a list of factors, outer first. SAMPLES is one of them: `(SAMPLES, 2)` are samples joined with two heads, and
`(2, SAMPLES)` are the same heads in front of the samples. A module is written as text, which is what a failure shows.
"""

from __future__ import annotations

import random
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.generators.layout_layers import LAYERS

Dim = tuple[int, ...]
SAMPLES = -1
SIZES = (1, 2, 2, 3, 3, 4)
MOST = 2000
"""Numbers of a sample that a value has at most."""


def count(dim: Dim) -> int:
    """Of one sample."""
    return prod(f for f in dim if f != SAMPLES)


def size(dim: Dim) -> str:
    """As an expression of the number of samples."""
    joined, number = ["b"] * dim.count(SAMPLES), count(dim)
    return " * ".join([*joined, *([str(number)] if number != 1 or not joined else [])])


def plain(dim: Dim) -> Dim:
    """With as few factors as possible."""
    found: list[int] = []
    for f in dim:
        if found and SAMPLES not in (f, found[-1]):
            found[-1] *= f
        elif f != 1:
            found.append(f)
    return tuple(f for f in found if f != 1) or (1,)


class Drawing:
    """A module while it is drawn. at: name of the newest value, whose dimensions are `dims`.

    by_chance: the number of samples, where it is a size like any other of the code; 0 where it is open.
    """

    def __init__(self, seed: int, by_chance: int = 0) -> None:
        self.rng, self.by_chance = random.Random(seed), by_chance
        self.tensors = torch.Generator().manual_seed(seed)
        self.lines, self.constants, self.layers = list[str](), list[Tensor](), list[nn.Module]()
        self.shape = [self.of(*SIZES) for _ in range(self.of(1, 2, 2, 3))]
        self.at, self.dims = "x", [(by_chance or SAMPLES,), *((n,) for n in self.shape)]
        for _ in range(self.of(1, 2)):
            for _ in range(self.of(1, 2, 3, 4)):
                self.look()
            self.of(*LAYERS)(self)
        if self.chance(0.5):
            self.look()

    def of(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, part: float) -> bool:
        return self.rng.random() < part

    def give(self, text: str, dims: list[Dim]) -> None:
        """The next value."""
        self.lines.append(f"v{len(self.lines)} = {text}")
        self.at, self.dims = f"v{len(self.lines) - 1}", [plain(d) for d in dims]

    def fixed(self) -> list[int]:
        """Dimensions without samples."""
        return [d for d, dim in enumerate(self.dims) if SAMPLES not in dim]

    def constant(self, *shape: int) -> str:
        self.constants.append(torch.randn(shape, generator=self.tensors))
        return f"self.c{len(self.constants) - 1}"

    def layer(self, layer: nn.Module) -> str:
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=self.tensors) * (0.7 / max(1, p.shape[-1]) ** 0.5))
        self.layers.append(layer)
        return f"self.m{len(self.layers) - 1}"

    def each(self, dims: list[Dim]) -> str:
        """A constant that broadcasts against these dimensions, with rows of its own for what is joined with samples."""
        joined = [d for d, dim in enumerate(dims) if SAMPLES in dim and len(dim) > 1]
        if not joined or self.chance(0.3):
            return self.constant(*(1 if SAMPLES in dim or self.chance(0.3) else count(dim) for dim in dims))
        at = joined[0]
        cut = dims[at].index(SAMPLES)
        behind = [1 if SAMPLES in dim else count(dim) for dim in dims[at + 1 :]]
        name = self.constant(count(dims[at][:cut]), 1, count(dims[at][cut + 1 :]), *behind)
        return f"{name}.expand(-1, b, {', '.join(['-1'] * (len(behind) + 1))}).flatten(0, 2)"

    def same(self) -> str:
        """Another tensor of the same sizes, made of the newest value; its samples may lie in another order."""
        crossed = [d for d, dim in enumerate(self.dims) if SAMPLES in dim and len(dim) == 2]
        if crossed and self.chance(0.5):
            d = crossed[0]
            front, behind = (size(self.dims[d][i : i + 1]) for i in range(2))
            return f"{self.at}.unflatten({d}, ({front}, {behind})).transpose({d}, {d + 1}).flatten({d}, {d + 1})"
        alike = [(j, i) for i in range(len(self.dims)) for j in range(i) if self.dims[i] == self.dims[j]]
        if alike and self.chance(0.4):
            return f"{self.at}.transpose{self.of(*alike)}"
        return f"torch.tanh({self.at})"

    def last(self, needed: int, rank: int = 0) -> None:
        """Brings dimensions without samples to the end, and the others in front to a number: joined in any order, or of one."""
        while len(self.fixed()) < needed:
            self.give(f"torch.stack([{self.at}, torch.tanh({self.at})], -1)", [*self.dims, (2,)])
        if any(SAMPLES in dim for dim in self.dims[-needed:]):
            kept = self.rng.sample(self.fixed(), needed)
            others = [d for d in range(len(self.dims)) if d not in kept]
            self.rng.shuffle(others)
            self.turn([*others, *kept])
        while rank and len(self.dims) > rank:
            self.join(self.rng.randrange(max(1, len(self.dims) - needed - 1)))
        while rank and len(self.dims) < rank:
            self.give(f"{self.at}.unsqueeze(0)", [(1,), *self.dims])

    def turn(self, order: list[int]) -> None:
        self.give(f"{self.at}.permute({order})", [self.dims[d] for d in order])

    def join(self, d: int) -> None:
        dims = [*self.dims[:d], self.dims[d] + self.dims[d + 1], *self.dims[d + 2 :]]
        self.give(f"{self.at}.flatten({d}, {d + 1})", dims)

    def divide(self, d: int) -> None:
        """At one of its factors, or of the numbers that those are products of."""
        factors = [p for f in self.dims[d] for p in ((f // 2, 2) if f % 2 == 0 and f > 2 else (f,))]
        if len(factors) < 2 or len(self.dims) > 4:
            return
        cut = self.rng.randrange(1, len(factors))
        parts = tuple(factors[:cut]), tuple(factors[cut:])
        dims = [*self.dims[:d], *parts, *self.dims[d + 1 :]]
        self.give(f"{self.at}.unflatten({d}, ({size(parts[0])}, {size(parts[1])}))", dims)

    def look(self) -> None:
        """At the newest value in another way, or a copy of its elements."""
        rank, x = len(self.dims), self.at
        d = self.rng.randrange(rank)
        kind = self.of("turn", "turn", "join", "join", "divide", "divide", "cut", "one", "flip", "more", "put", "stack")
        if kind == "turn":
            self.turn(self.rng.sample(range(rank), rank))
        elif kind == "join" and rank > 1:
            self.join(self.rng.randrange(rank - 1))
        elif kind == "divide":
            self.divide(d)
        elif kind in ("more", "put", "stack"):
            self._larger(kind, d)
        elif SAMPLES not in self.dims[d]:
            n = count(self.dims[d])
            colons, first = ":, " * d, self.rng.randrange(n)
            if kind == "one" and rank > 2:
                self.give(f"{x}.select({d}, {first})", [*self.dims[:d], *self.dims[d + 1 :]])
            elif kind == "cut":
                self.give(f"{x}[{colons}{first}:]", [*self.dims[:d], (n - first,), *self.dims[d + 1 :]])
            elif kind == "flip":
                self.give(f"{x}.flip({d})", self.dims)

    def _larger(self, kind: str, d: int) -> None:
        x, rank = self.at, len(self.dims)
        if 3 * prod(count(dim) for dim in self.dims) > MOST:
            return
        if kind == "more" and self.chance(0.5):
            self.give(f"{x}.repeat_interleave(2, {d})", [*self.dims[:d], (*self.dims[d], 2), *self.dims[d + 1 :]])
        elif kind == "more":
            times = ", ".join("2" if i == d else "1" for i in range(rank))
            self.give(f"{x}.repeat({times})", [*self.dims[:d], (2, *self.dims[d]), *self.dims[d + 1 :]])
        elif kind == "put":
            self.give(
                f"torch.cat([{x}, {self.same()}], {d})", [*self.dims[:d], (2, *self.dims[d]), *self.dims[d + 1 :]]
            )
        elif rank < 5:
            self.give(f"torch.stack([{x}, {self.same()}], {d})", [*self.dims[:d], (2,), *self.dims[d:]])

    def module(self) -> Drawn:
        return Drawn(self)

    @property
    def text(self) -> str:
        number = self.by_chance or "x.shape[0]"
        lines = [f"b = {number}", *self.lines, f"return {self.at}"]
        return "def forward(self, x):\n" + "".join(f"    {line}\n" for line in lines)


class Drawn(nn.Module):
    """What was drawn, in eval mode."""

    def __init__(self, drawing: Drawing) -> None:
        super().__init__()
        for i, constant in enumerate(drawing.constants):
            self.register_buffer(f"c{i}", constant)
        for i, layer in enumerate(drawing.layers):
            setattr(self, f"m{i}", layer)
        names: dict[str, Any] = {"torch": torch, "F": nn.functional}
        exec(drawing.text, names)
        self._forward = names["forward"]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)
