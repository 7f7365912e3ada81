"""What the user's own code raised, told with its own frames alone."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from types import TracebackType

from rtaccel.cli._common.target import UserCodeRaised

_LIBRARIES = ("torch", "numpy", "safetensors", "matplotlib", "rich", "triton", "sympy", "networkx")
"""What rtaccel calls: an error inside one of them is the user's only where the user's code stands above it."""


def raised_by_user(error: BaseException) -> bool:
    """Whether a frame of the user's code is on the way to it."""
    return isinstance(error, UserCodeRaised) or bool(_own(error.__traceback__))


def told(error: BaseException) -> str:
    """Its traceback as Python prints one, without frames of rtaccel, torch and Python's library."""
    if isinstance(error, UserCodeRaised):
        error = error.cause
    parts = []
    for one in _chain(error):
        frames = _own(one.__traceback__)
        lines = (
            ["Traceback (your code alone, most recent call last):\n", *traceback.format_list(frames)] if frames else []
        )
        parts.append("".join([*lines, *traceback.format_exception_only(type(one), one)]))
    return "\nThen:\n\n".join(parts).rstrip()


def _chain(error: BaseException) -> list[BaseException]:
    """The error after those that it was raised from. What was handled on the way, as by a second attempt, is not shown."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__
    return [one for one in chain[::-1] if one is error or _own(one.__traceback__)]


def _own(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    folders = _not_the_users()
    return [frame for frame in traceback.extract_tb(trace) if _is_users(frame.filename, folders)]


def _is_users(filename: str, folders: Sequence[str]) -> bool:
    if filename.startswith("<"):  # frozen importlib, code that torch generated
        return False
    path = os.path.realpath(filename)
    if any(path.startswith(folder + os.sep) for folder in folders):
        return False
    library = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep
    return not path.startswith(library) or "site-packages" in path


def _not_the_users() -> list[str]:
    """The folders of rtaccel, its kernels, and the libraries that it calls."""
    modules = [sys.modules.get(name) for name in ("rtaccel", "rtaccel.kernels", *_LIBRARIES)]
    paths = [path for module in modules for path in getattr(module, "__path__", ())]
    return sorted({os.path.realpath(path) for path in paths})
