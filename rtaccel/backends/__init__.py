"""Backends: what can run here, and where not, the reason and what to install.

A backend is a module in this folder with a `BACKEND` object; `backends()` finds them by name, so a new
one is one file. None of them imports a GPU library before it is asked whether it can run.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from rtaccel.backends.base import Backend
from rtaccel.core.errors import BackendUnavailable

__all__ = ["Backend", "backends", "get_backend", "require"]


def backends() -> dict[str, Backend]:
    """Every backend, by name, the preferred one first."""
    return dict(_found())


@cache
def _found() -> dict[str, Backend]:
    """Asked for every stage that is compiled, hundreds of times in a search."""
    found = []
    for name in _names():
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "BACKEND"):
            found.append(module.BACKEND)
    return {b.name: b for b in sorted(found, key=lambda b: -b.rank)}


@cache
def _names() -> tuple[str, ...]:
    """Of the modules here; asked for each stage that is compiled, and the folder stays as it is."""
    names = [file.name for file in pkgutil.iter_modules(__path__)]
    return tuple(name for name in names if name != "base" and not name.startswith("_"))


def get_backend(name: str) -> Backend:
    found = backends()
    if name not in found:
        raise BackendUnavailable("backend", repr(name), "one of " + ", ".join(found), "See `rtaccel info`.")
    return found[name]


def require(name: str) -> Backend:
    """The backend, or BackendUnavailable with the reason and what to do about it."""
    backend = get_backend(name)
    reason = backend.unavailable()
    if reason is not None:
        raise BackendUnavailable("backend", repr(name), f"a machine where it runs ({reason})", backend.remedy)
    return backend
