"""`load_state_dict` of a model with swapped layers: what its layers would refuse is refused before any of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rtaccel.core.errors import FormatError
from rtaccel.nn.check import describe
from rtaccel.nn.stored import stored_layers


def guard_loads(model: nn.Module) -> None:
    """Checks come first in every later `load_state_dict` of this model; once, however often it is asked for."""
    if all(getattr(hook, "hook", hook) is not _check for hook in model._load_state_dict_pre_hooks.values()):
        model.register_load_state_dict_pre_hook(_check)


def unguard_loads(model: nn.Module) -> None:
    """Loads of a model without swapped layers are nn.Module's again."""
    if any(True for _ in stored_layers(model)):
        return
    hooks = model._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is _check]:
        del hooks[key]


def _check(model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Raises FormatError for tensors that cannot be loaded. Missing and further names are nn.Module's to judge: it alone
    knows whether the load is strict, and reports them at its end."""
    layers = list(stored_layers(model))
    for name, layer in layers:
        layer.refuse_state(state_dict, f"{prefix}{name}." if name else prefix)
    swapped = tuple(f"{name}." for name, _ in layers)
    for name, mine in (*model.named_parameters(), *model.named_buffers()):
        theirs = state_dict.get(prefix + name)
        if isinstance(theirs, Tensor) and not name.startswith(swapped) and theirs.shape != mine.shape:
            op = f"load {prefix}{name}"
            raise FormatError(op, describe(theirs), describe(mine), "Nothing was loaded. Pass a state that fits.")
