"""Patterns of module names that fit nothing: a slip of the pen, which would leave layers as they are without a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from rtaccel.core.log import log
from rtaccel.core.process.warn_caller import warn_caller


def unmatched(op: str, patterns: Any, model: nn.Module, also: Iterable[str] = ()) -> tuple[str, ...]:
    """A note for each pattern of a dict that fits no module's name, which is a warning too. also: further names it may fit."""
    if not isinstance(patterns, Mapping):
        return ()
    names = [*(name for name, _ in model.named_modules(remove_duplicate=False) if name), *also]
    notes = []
    for pattern in patterns:
        if isinstance(pattern, str) and not any(fnmatchcase(name, pattern) for name in names):
            owner = pattern.rpartition(".")[0]  # patterns are of modules, not of their weights
            close = get_close_matches(pattern, names, 2) or [name for name in names if name == owner]
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            notes.append(f"the pattern {pattern!r} fits no module of the model{hint}")
            log.warning("%s: %s", op, notes[-1])
            warn_caller(f"{op}: {notes[-1]}", UserWarning)
    return tuple(notes)
