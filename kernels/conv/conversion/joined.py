"""Convolutions of one input whose results are added, as one convolution: its kernel covers both of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.traits import Node

PARTS = ("in_steps", "out_steps", "out_rows", "tap_rows", "stream")


def join(a: Node, b: Node) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and attributes of the convolution that gives a + b, before the activation of b; a may be linear.

    None where their kernels do not lie on one grid, or where one for both would hold more taps than they do together.
    """
    if set(a.tensors) != {"weight", "bias"} or set(b.tensors) != {"weight", "bias"}:
        return None
    weight, theirs = b.tensors["weight"], _of_position(a, b) if a.op == "linear" else (a.tensors["weight"], a.attrs)
    if theirs is None or theirs[0].shape[:2] != weight.shape[:2] or a.op not in (b.op, "linear"):
        return None
    parts = [theirs, (weight, b.attrs)]
    alike = ("in_size", "out_size", "stride", "groups")
    if any(theirs[1].get(name) != b.attrs.get(name) for name in alike) or any(_partial(attrs) for _, attrs in parts):
        return None
    axes = [_union(theirs[1], b.attrs, axis) for axis in (0, 1)]
    if None in axes:
        return None
    kernel, padding, dilation = zip(*(axis for axis in axes if axis is not None))
    if prod(kernel) > sum(prod(attrs["kernel"]) for _, attrs in parts):
        return None
    sums = torch.zeros(*weight.shape[:2], *kernel, dtype=torch.float64, device=weight.device)
    for own, attrs in parts:
        top, left = ((p - q) // d for p, q, d in zip(padding, attrs["padding"], dilation))
        tall, wide = attrs["kernel"]
        sums[:, :, top : top + tall, left : left + wide] += own.double()
    bias = (a.tensors["bias"].double() + b.tensors["bias"].double()).float()
    attrs = {**b.attrs, "kernel": kernel, "padding": padding, "dilation": dilation}
    return {**b.tensors, "weight": sums.float(), "bias": bias}, attrs


def skip(
    tensors: dict[str, Tensor], attrs: Mapping[str, Any], scale: Tensor, shift: Tensor
) -> dict[str, Tensor] | None:
    """The tensors of conv(x) + scale * x + shift; None where an output is at another position than the input of its tap."""
    weight, size = tensors["weight"], attrs["in_size"]
    n, per_group = weight.shape[:2]
    if attrs["stride"] != (1, 1) or attrs["out_size"] != size or _partial(attrs):
        return None
    if n != per_group * int(attrs.get("groups", 1)) or scale.shape != (n,):
        return None
    taps = [divmod(p, d) for p, d in zip(attrs["padding"], attrs["dilation"])]
    if any(rest or tap >= k for (tap, rest), k in zip(taps, attrs["kernel"])):
        return None
    made, channel = weight.double().clone(), torch.arange(n, device=weight.device)
    made[channel, channel % per_group, taps[0][0], taps[1][0]] += scale.double()
    bias = (tensors["bias"].double() + shift.double()).float()
    return {**tensors, "weight": made.float(), "bias": bias}


def _partial(attrs: Mapping[str, Any]) -> bool:
    return any(attrs.get(name) for name in PARTS)


def _of_position(a: Node, b: Node) -> tuple[Tensor, dict[str, Any]] | None:
    """The weight and attributes of a linear layer as a convolution of one tap over the positions of b."""
    if b.attrs["in_size"] != b.attrs["out_size"] or b.attrs["stride"] != (1, 1):
        return None
    one = {"kernel": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    return a.tensors["weight"][:, :, None, None], {**b.attrs, **one}


def _union(a: Mapping[str, Any], b: Mapping[str, Any], axis: int) -> tuple[int, int, int] | None:
    """Kernel, padding and dilation that cover the taps of both along an axis."""
    steps = {attrs["dilation"][axis] for attrs in (a, b) if attrs["kernel"][axis] > 1}
    if len(steps) > 1:
        return None
    dilation = steps.pop() if steps else 1
    first = [-attrs["padding"][axis] for attrs in (a, b)]
    if (first[0] - first[1]) % dilation:
        return None
    last = [f + (attrs["kernel"][axis] - 1) * dilation for f, attrs in zip(first, (a, b))]
    if min(first) > 0:
        return None
    return (max(last) - min(first)) // dilation + 1, -min(first), dilation
