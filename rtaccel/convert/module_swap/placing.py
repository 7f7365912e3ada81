"""Layers put into a model in the place of others."""

from __future__ import annotations

from torch import nn

from rtaccel.convert.module_swap.eligibility import Quantized, Swappable
from rtaccel.convert.module_swap.whole_load import guard_loads


def put(model: nn.Module, swaps: list[tuple[tuple[str, ...], Swappable, Quantized]], keep_original: bool) -> None:
    for _, module, candidate in swaps:
        candidate._swapped = True
        if keep_original:
            candidate.__dict__["_original"] = module  # past nn.Module, which would register it as a child
    replace_modules(model, [(names, candidate) for names, _, candidate in swaps])
    if swaps:
        guard_loads(model)


def replace_modules(model: nn.Module, changes: list[tuple[tuple[str, ...], nn.Module]]) -> None:
    """Sets each module under all its names; where one cannot be set, those before it are put back."""
    done: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for names, module in changes:
            for name in names:
                parent_name, _, child = name.rpartition(".")
                parent = model.get_submodule(parent_name)
                done.append((parent, child, getattr(parent, child)))
                setattr(parent, child, module)
    except BaseException:
        for parent, child, module in reversed(done):
            parent._modules[child] = module
        raise
