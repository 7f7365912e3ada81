"""Whether a difference from the model is one that its own rounding makes as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.runtime.verification.results import TOLERANCE, rms

DRAWS = 16
"""Runs with operands moved at random. An element that is moved as often up as down is missed by all of them once in 30,000."""

ROUNDINGS = 8
"""By so many of its own roundings each operand is moved."""


def is_rounding(model: nn.Module, args: tuple[Any, ...], index: int, want: Any, got: Any, tolerance: float) -> bool:
    """Whether result `index` may be `got` where the model gives `want`: real numbers that cancel, or whole numbers and truth
    values that a rounding decides."""
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        return False
    if want.shape != got.shape or got.dtype != want.dtype or want.is_complex():
        return False
    if not want.is_floating_point():
        return _decided_by_rounding(model, args, index, want, got.to(want.device))
    if want.dtype not in (torch.float32, *TOLERANCE):
        return False
    if not bool(torch.isfinite(want).all() & torch.isfinite(got).all()):
        return False
    return _cancels(model, args, index, want, got, tolerance)


def _cancels(model: nn.Module, args: tuple[Any, ...], index: int, want: Tensor, got: Tensor, tolerance: float) -> bool:
    """Whether what the model gives in float64 is as far from its result as from ours."""
    try:
        with torch.no_grad(), _Undrawn():
            double = in_python("compile", private_copy("compile", model)).double()  # frozen TorchScript stays float32
            exact = pytree.tree_leaves(double(*_doubled(args)))[index].double()
    except Exception:  # a model that names a dtype of its own, or draws numbers
        return False
    own, ours = rms(want.double() - exact), rms(got.double() - exact)
    return ours <= 4 * own + tolerance * rms(exact)


def _doubled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map(
        lambda leaf: leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, args
    )


def _decided_by_rounding(model: nn.Module, args: tuple[Any, ...], index: int, want: Tensor, got: Tensor) -> bool:
    """Whether every element that differs is what the model itself gives where its operands are moved by a few roundings: a
    number that is cut to a whole one, a comparison, the larger of two that are nearly equal."""
    open_yet = want != got
    generator = torch.Generator().manual_seed(11)
    for _ in range(DRAWS):
        try:
            with torch.no_grad(), _Moved(generator):
                found = pytree.tree_leaves(model(*_kept(args)))[index]
        except Exception:  # numbers that an operator of the model's own does not take, or drawn ones
            return False
        if not isinstance(found, Tensor) or found.shape != want.shape:
            return False
        open_yet &= found != got
        if not bool(open_yet.any()):
            return True
    return False


def _kept(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, args)


class _Undrawn(TorchDispatchMode):
    """Raises where a call draws numbers. One seed gives other numbers in float64, which say nothing about rounding."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = torch.default_generator.get_state()
        made = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.default_generator.get_state()):  # dropout may leave all numbers as they are
            raise ValueError(f"{func} draws numbers")
        return made


class _Moved(_Undrawn):
    """Every real operand of every call that computes is moved by some roundings, up or down at random."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        shared = any(r.alias_info is not None for r in func._schema.returns)
        if not shared and not func._schema.is_mutable:
            given = pytree.tree_map(self._move, given)
        return super().__torch_dispatch__(func, types, *given)

    def _move(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.layout != torch.strided:
            return leaf
        signs = torch.randint(2, leaf.shape, generator=self._generator).to(leaf.device, leaf.dtype) * 2 - 1
        return leaf * (1 + ROUNDINGS * torch.finfo(leaf.dtype).eps * signs)
