"""Operators that move numbers and compute nothing, and those that look numbers up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.generators.graphs.program import Draw, Made

F = nn.functional


def permute(draw: Draw, x: Tensor, other: Tensor) -> Made:
    order = list(range(1, x.dim()))
    draw.shuffle(order)
    return Made(lambda a, b: a.permute(0, *order), exact=True)


def join(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, function = draw.dim(x), draw.of(torch.relu, torch.neg, lambda t: t)
    return Made(
        draw.of(lambda a, b: torch.cat([a, b], dim), lambda a, b: torch.cat([a, function(a), a], dim)), exact=True
    )


def stack(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim = draw.dim(x, 1)
    return Made(draw.of(lambda a, b: torch.stack([a, b], dim), lambda a, b: torch.stack([a, -a], dim)), exact=True)


def part(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, step = draw.dim(x), draw.of(1, 1, 2, 3)
    start = draw.randrange(0, max(1, x.shape[dim] // 2))
    index = (slice(None),) * dim + (slice(start, draw.of(None, None, x.shape[dim] - 1), step),)
    return Made(lambda a, b: a[index], exact=True)


def one(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, index = draw.dim(x), draw.randrange(-1, 1)
    return Made(lambda a, b: a.select(dim, index), exact=True)


def pieces(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, size = draw.dim(x), draw.of(1, 2, 3)
    return Made(
        draw.of(
            lambda a, b: a.split(size, dim)[0] - a.split(size, dim)[0].flip(dim),
            lambda a, b: torch.stack(a.unbind(dim)[::-1], dim),
            lambda a, b: torch.cat(a.chunk(2, dim)[::-1], dim),
            lambda a, b: a.tensor_split(2, dim)[1],
        ),
        exact=True,
    )


def turn(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, by = draw.dim(x), draw.randint(-3, 3)
    return Made(draw.of(lambda a, b: a.flip(dim), lambda a, b: a.roll(by, dim)), exact=True)


def repeat(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, times = draw.dim(x), draw.of(2, 3)
    many = [1] * x.dim()
    many[dim] = times
    return Made(
        draw.of(
            lambda a, b: a.repeat(*many),
            lambda a, b: a.repeat_interleave(times, dim),
            lambda a, b: a.tile(many),
            lambda a, b: a.unsqueeze(dim).expand(*a.shape[:dim], times, *a.shape[dim:]),
        ),
        exact=True,
    )


def reshape(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() > 2 and draw.of(True, False):
        first = draw.randrange(1, x.dim() - 1)
        return Made(draw.of(lambda a, b: a.flatten(first, first + 1), lambda a, b: a.flatten(1)), exact=True)
    dim = draw.dim(x)
    size = draw.of(*(n for n in (1, 2, 3, 4) if x.shape[dim] % n == 0))
    return Made(draw.of(lambda a, b: a.unflatten(dim, (size, -1)), lambda a, b: a.unsqueeze(dim)), exact=True)


def pad(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 2:
        raise ValueError("no dimension")
    mode = draw.of("constant", "constant", "reflect", "replicate", "circular")
    around = [
        draw.of(0, 1, 2, *((-1,) if mode == "constant" and x.shape[-1] > 3 else ()))
        for _ in range(2 * (max(x.dim() - 2, 1) if mode != "constant" else 1))
    ]
    return Made(lambda a, b: F.pad(a, around, mode, 1.5 if mode == "constant" else None), exact=True)


def index(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim = draw.dim(x)
    given = torch.tensor([draw.randrange(x.shape[dim]) for _ in range(draw.randint(1, 5))])
    layer = nn.Module()
    layer.register_buffer("given", given)
    many = torch.randint(x.shape[dim], (1, *x.shape[1:]), generator=torch.Generator().manual_seed(draw.getrandbits(31)))
    layer.register_buffer("many", many)
    at = (slice(None),) * dim
    return Made(
        draw.of(
            lambda m, a, b: a.index_select(dim, m.given),
            lambda m, a, b: a[(*at, m.given)],
            lambda m, a, b: a.gather(dim, m.many.expand(a.shape[0], *m.many.shape[1:])),
            lambda m, a, b: a.index_add(dim, m.given, a.index_select(dim, m.given)),
            lambda m, a, b: a.index_fill(dim, m.given, 0.25),
            lambda m, a, b: a.index_copy(dim, m.given[:1], -a.index_select(dim, m.given[:1])),
        ),
        layer,
    )


def looked_up(draw: Draw, x: Tensor, other: Tensor) -> Made:
    """By numbers that are computed."""
    dim = draw.dim(x)
    size = x.shape[dim]
    table = nn.Embedding(size, draw.of(1, 3, 8))
    return Made(
        draw.of(
            lambda m, a, b: m(a.argmax(dim)),
            lambda m, a, b: F.one_hot(a.argmin(dim), size).to(a.dtype),
            lambda m, a, b: a.gather(dim, a.argmax(dim, keepdim=True)),
            lambda m, a, b: a.scatter(dim, a.argmin(dim, keepdim=True), 0.5),
            lambda m, a, b: a.scatter_add(dim, a.argmax(dim, keepdim=True), a.sum(dim, keepdim=True)),
        ),
        table,
    )


def triangle(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no matrix")
    by = draw.randint(-1, 1)
    return Made(
        draw.of(lambda a, b: a.tril(by), lambda a, b: a.triu(by), lambda a, b: a.diagonal(by, -2, -1)), exact=True
    )


def windows(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, size, step = draw.dim(x), draw.of(1, 2, 3), draw.of(1, 2)
    return Made(lambda a, b: a.unfold(dim, size, step), exact=True)


def pixels(draw: Draw, x: Tensor, other: Tensor) -> Made:
    kernel, padding = draw.of(2, 3), draw.of(0, 1)
    return Made(
        draw.of(
            lambda a, b: F.pixel_shuffle(a, 2),
            lambda a, b: F.pixel_unshuffle(a, 2),
            lambda a, b: F.unfold(a, kernel, padding=padding),
            lambda a, b: F.fold(F.unfold(a, 2), a.shape[2:], 2),
            lambda a, b: F.channel_shuffle(a, 2),
        ),
        exact=draw.of(False),
    )


KINDS = (
    permute,
    permute,
    join,
    join,
    stack,
    part,
    part,
    one,
    pieces,
    turn,
    repeat,
    reshape,
    reshape,
    pad,
    index,
    looked_up,
    triangle,
    windows,
    pixels,
)
