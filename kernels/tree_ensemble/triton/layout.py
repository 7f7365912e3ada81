"""Trees as the kernel walks them: nodes of 16 bytes, the two children of a node beside each other, in the order of trees.cc.

    word 0   threshold, float32
    word 1   first child; a leaf leads to itself
    word 2   feature * 2 + 1 where NaN goes to the first child
    word 3   of a leaf, its row of value

All trees go down together, level by level, so the roots lie side by side, and so do the upper levels. Node 0 is a tree of its
own, whose row of value is the zeros behind all others: it fills blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

LANES = 8
"""kTreeLanes of trees.h: trees that the CPU has side by side, and sums in so many lanes."""


class Laid(NamedTuple):
    """nodes int32 [N, 4]; root int32 [trees, padded]; depth int32 [blocks], the levels of the deepest tree of each; value float32
    [L + 1, T]."""

    nodes: Tensor
    root: Tensor
    depth: Tensor
    value: Tensor


def levels_of(low: Mapping[str, Any]) -> list[Tensor]:
    """Nodes that lie so many comparisons below a root, in the order of their parents; children are beside each other."""
    feature, child, level = low["feature"], low["child"].long(), low["root"].long()
    found = []
    while level.numel():
        found.append(level)
        level = child[level[feature[level] >= 0]].reshape(-1)
    return found


def heights_of(low: Mapping[str, Any], levels: list[Tensor]) -> Tensor:
    """Of each node, the comparisons to the last leaf below it."""
    feature, child = low["feature"], low["child"].long()
    found = torch.zeros(feature.numel(), dtype=torch.int64)
    for level in reversed(levels):
        inner = level[feature[level] >= 0]
        found[inner] = 1 + found[child[inner]].amax(1)
    return found


def in_order(low: Mapping[str, Any]) -> Tensor:
    """The roots, of flat trees first, as the CPU sorts them: the order of its sum."""
    roots = low["root"].long()
    heights = heights_of(low, levels_of(low))[roots]
    return roots[torch.argsort(heights * low["feature"].numel() + roots)]


def lay(low: Mapping[str, Any], block: int) -> Laid:
    """low: what the contract's `lower` gives. block: trees of a program; there are as many as fill some."""
    low = {name: t.cpu() if isinstance(t, Tensor) else t for name, t in low.items()}
    roots = in_order(low)
    low = {**low, "root": roots}
    levels = levels_of(low)
    every = torch.cat(levels)
    place = torch.zeros(low["feature"].numel(), dtype=torch.int64)
    place[every] = 1 + torch.arange(every.numel())
    feature, child, value = low["feature"][every], low["child"][every].long(), low["value"]
    leaf = feature < 0
    nodes = torch.empty((1 + every.numel(), 4), dtype=torch.int32)
    threshold = torch.where(leaf, torch.full_like(low["threshold"][every], float("nan")), low["threshold"][every])
    first = torch.where(leaf, place[every], place[child[:, 0]])
    nodes[1:, 0] = threshold.view(torch.int32)
    nodes[1:, 1] = first.int()
    nodes[1:, 2] = torch.where(leaf, torch.ones_like(feature), 2 * feature + low["nan_first"][every].int())
    nodes[1:, 3] = torch.where(leaf, child[:, 0], torch.zeros_like(first)).int()
    nodes[0] = torch.tensor([0, 0, 1, len(value)], dtype=torch.int32)
    nodes[0, 0] = torch.tensor(float("nan")).view(torch.int32)
    blocks = -(-roots.numel() // block)
    root = torch.zeros(blocks * block, dtype=torch.int32)
    root[: roots.numel()] = place[roots].int()
    height = torch.zeros(blocks * block, dtype=torch.int32)
    height[: roots.numel()] = heights_of(low, levels)[roots].int()
    depth = height.view(blocks, block).amax(1)
    return Laid(nodes, root, depth, torch.cat([value, torch.zeros(1, value.shape[1])]))
