"""The network of one process: as it is in torch, compiled, and in W8A8, with what it should give."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from bench.zoo.case import CALIBRATION, varied
from bench.zoo.doors.outcome import NothingToTry, Wrong
from bench.zoo.survey import difference, leaves, reference

NEAR = 1e-5
"""Of the rms, for float32 beside float64; more where torch's own float32 is farther away."""


class Subject:
    """model: called on copies alone, as some networks keep state. steady: two first calls of the network give the same; else it
    draws random numbers. Raises what the network raises."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        self.model, self.inputs = model, tuple(inputs)
        self.steady = same_bits(self.eager(self.inputs), self.eager(self.inputs))

    @functools.cached_property
    def fast(self) -> Any:
        return compiled(self.model, self.inputs)

    @functools.cached_property
    def want(self) -> list[Tensor]:
        """What the compiled network gives for the example."""
        self.needs_steady()
        return self.call(self.fast, self.inputs)

    @functools.cached_property
    def eight(self) -> Any:
        """The network in W8A8 with static scales, calibrated as bench/zoo/loaders.py does."""
        calls = [self.varied(seed) for seed in range(CALIBRATION)]
        return compiled(self.model, self.inputs, rt.W8A8(activation="static"), calibration=calls)

    def varied(self, seed: int) -> tuple[Any, ...]:
        """Other numbers than the example's, of the same shapes."""
        flat, spec = pytree.tree_flatten(self.inputs)
        places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
        drawn = varied([flat[i] for i in places], torch.Generator().manual_seed(100 + seed))
        for place, tensor in zip(places, drawn):
            flat[place] = tensor
        return tuple(pytree.tree_unflatten(flat, spec))

    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, Tensor)]

    def needs_steady(self) -> None:
        if not self.steady:
            raise NothingToTry("the network draws random numbers")

    @torch.no_grad()
    def eager(self, inputs: Sequence[Any], model: nn.Module | None = None) -> list[Tensor]:
        """Results of the network's first call, in torch."""
        return clones(copied(model or self.model)(*inputs))

    @staticmethod
    @torch.no_grad()
    def call(fast: Any, inputs: Sequence[Any]) -> list[Tensor]:
        """Results of the first call of a compiled network: one with state begins anew."""
        if hasattr(fast, "reset"):
            fast.reset()
        return clones(fast(*inputs))

    def check_near(self, got: Any, inputs: Sequence[Any], what: str) -> float:
        """The error beside float64. Raises Wrong where it is larger than float32 explains."""
        want, _ = reference(self.model, inputs)
        error = difference(got, want)
        limit = max(NEAR, 10 * difference(self.eager(inputs), want))
        if not error <= limit:
            raise Wrong(f"{what}: an error of {error:.1e} beside float64, where {limit:.1e} is the limit")
        return error

    def check_bits(self, got: Any, what: str, want: Any = None) -> None:
        """Raises Wrong where a bit is another than in `want`, by default the results for the example."""
        wanted = self.want if want is None else want
        if not same_bits(leaves(got), leaves(wanted)):
            raise Wrong(f"{what}: {how_other(leaves(got), leaves(wanted))}")


def compiled(model: nn.Module, inputs: Sequence[Any], *scheme: Any, **options: Any) -> Any:
    """`rt.compile` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rt.compile(model, tuple(inputs), *scheme, **options)


def copied(model: nn.Module) -> nn.Module:
    """A copy, which keeps the state of its own calls; the network itself where it holds tensors that cannot be copied."""
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError:  # weights that are computed from others before each call
        return model


def clones(result: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in leaves(result)]


def same_bits(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Bit for bit, signs of zeros and all."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b)) for a, b in zip(first, second)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def how_other(got: Sequence[Tensor], want: Sequence[Tensor]) -> str:
    """In what two lists of results differ."""
    forms = [[f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in one] for one in (got, want)]
    if forms[0] != forms[1]:
        return f"{', '.join(forms[0])} in place of {', '.join(forms[1])}"
    count = sum(int((a != b).logical_and(~(a.isnan() & b.isnan())).sum()) for a, b in zip(got, want))
    return f"other bits, {count} of {sum(b.numel() for b in want)} numbers, and {difference(got, leaves(want)):.1e} of the rms"


def changed(inputs: Sequence[Any], change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """The inputs with each tensor changed."""
    return tuple(pytree.tree_map_only(Tensor, change, tuple(inputs)))


def with_one(inputs: Sequence[Any], place: int, tensor: Tensor) -> tuple[Any, ...]:
    """The inputs with another tensor as number `place` of their leaves."""
    flat, spec = pytree.tree_flatten(tuple(inputs))
    flat[place] = tensor
    return tuple(pytree.tree_unflatten(flat, spec))
