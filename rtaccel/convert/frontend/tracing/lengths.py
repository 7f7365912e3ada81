"""`len(x)` of a tensor with an open first dimension, which Python would make a number of."""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_MISSING = object()


@contextmanager
def lengths_stay_open(model: nn.Module) -> Iterator[None]:
    """Inside, `len(x)` in the files of a model's own classes, and of their packages, is `x.shape[0]`, in this thread alone.
    `__len__` may give Python nothing but a number, and a number fixes the batch."""
    thread, length = threading.get_ident(), builtins.len

    def told(value: Any, /) -> Any:
        if isinstance(value, Tensor) and value.dim() and threading.get_ident() == thread:
            size: Any = value.shape[0]
            return size if isinstance(size, torch.SymInt) else length(value)
        return length(value)

    names = {type(module).__module__ for module in model.modules()}
    packages = {name.partition(".")[0] for name in names} - {torch.__name__}
    places = [vars(file) for name, file in _loaded() if name.partition(".")[0] in packages]
    places = [place for place in places if place.get("len", _MISSING) is _MISSING]  # else it has one of its own
    for place in places:
        place["len"] = told
    try:
        yield
    finally:
        for place in places:
            if place.get("len") is told:
                del place["len"]


def _loaded() -> list[tuple[str, ModuleType]]:
    """The files that Python has loaded. A name may stand for none."""
    return [(name, file) for name, file in list(sys.modules.items()) if isinstance(file, ModuleType)]
