"""Numbers that torch's own code asks for while a model is exported, although they do not change what is computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules import transformer

_DETECT = "_detect_is_causal_mask"
"""Of torch.nn.Transformer and its encoder and decoder: whether all numbers of a mask are those of a causal one."""


@contextmanager
def unvalidated() -> Iterator[None]:
    """Without the checks of `torch.distributions` on their arguments: they ask for numbers, which a graph does not have. The
    model itself has run with the example before, checks included."""
    kind = torch.distributions.Distribution
    kept = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(kept)


@contextmanager
def masks_as_given() -> Iterator[None]:
    """torch looks whether a mask is causal, to leave its numbers out of attention. Left in they give the same result, and nobody
    has to look. In this thread alone."""
    kept: Any = getattr(transformer, _DETECT, None)
    thread = threading.get_ident()

    def told(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True if threading.get_ident() == thread else kept(mask, is_causal, size)

    if kept is not None:
        setattr(transformer, _DETECT, told)
    try:
        yield
    finally:
        if kept is not None:
            setattr(transformer, _DETECT, kept)
