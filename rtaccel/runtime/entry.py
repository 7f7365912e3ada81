"""Methods of a compiled model that the native core takes without entering Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast


def native_entry(kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` of a compiled model, where the native core takes what is ordinary without entering Python; kind is "call" or
    "run". It stays as it is where there is no native core."""
    try:
        from rtaccel._native import entry
    except ImportError:
        return method
    return cast(Callable[..., Any], entry(kind, method))
