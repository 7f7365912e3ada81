"""Whether a model treats its samples each by itself, so that they may be streams.

A graph of one sample cannot show it: a mean over one sample, or a running sum along it, is the sample itself. Two are compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.private_copy import private_copy

DIFFERENT = 1e-2
"""Share of the rms from which on a result is another one: no sum in float32 comes near it."""


def meets_samples(model: nn.Module, window: Tensor, batch: int) -> bool:
    """Whether the results of one of two samples change with the other one beside it. batch: the dimension of samples.

    False where the model takes no two samples, and where one sample gives two results: its state is looked for elsewhere.
    """
    generator = torch.Generator().manual_seed(7)
    both = _drawn(window, batch, generator)
    one, two = (both.narrow(batch, sample, 1).contiguous() for sample in range(2))
    try:
        with torch.no_grad():
            alone, again, second, beside = (
                _tensors(private_copy("stream", model)(x.clone())) for x in (one, one, two, both)
            )
    except Exception:  # no model of two samples, or of these numbers
        return False
    if len(alone) != len(beside) or any(_differs(a, b) for a, b in zip(alone, again)):
        return False
    pairs = [(made, sample) for sample, own in enumerate((alone, second)) for made in zip(own, beside)]
    return any(_meets(a, b, sample) for (a, b), sample in pairs)


def _drawn(window: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Two samples like the window's. Indices are 0 and 1, as a table may have no more."""
    shape = [2 if dim == batch else size for dim, size in enumerate(window.shape)]
    if window.is_floating_point():
        return torch.randn(shape, generator=generator, device="cpu", dtype=window.dtype)
    return torch.randint(0, 2, shape, generator=generator, device="cpu", dtype=window.dtype)


def _tensors(results: Any) -> list[Tensor]:
    return [y for y in pytree.tree_leaves(results) if isinstance(y, Tensor)]


def _meets(alone: Tensor, beside: Tensor, sample: int) -> bool:
    """That half of `beside` along the dimension that is twice as long is not `alone`. Others say nothing of samples."""
    if alone.dim() != beside.dim():
        return False
    twice = [dim for dim, (a, b) in enumerate(zip(alone.shape, beside.shape)) if a != b]
    if len(twice) != 1 or beside.shape[twice[0]] != 2 * alone.shape[twice[0]]:
        return False
    size = alone.shape[twice[0]]
    return _differs(beside.narrow(twice[0], sample * size, size), alone)


def _differs(got: Tensor, want: Tensor) -> bool:
    got, want = got.double().nan_to_num(), want.double().nan_to_num()
    return float((got - want).square().mean()) > DIFFERENT**2 * max(float(want.square().mean()), 1e-12)
