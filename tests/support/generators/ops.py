"""The table of operations that generated models are made of: what each takes, draws, holds and does.

An operation works on a tensor [batch, *shape]. Its arguments are a dict of plain JSON values, so that a model can be printed
and stored. Files that fill the table: layers.py, plain.py, batchwise.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
"""Of one sample."""

Args = dict[str, Any]


def nothing(shape: Shape) -> st.SearchStrategy[Args]:
    return st.just({})


def no_module(shape: Shape, args: Args) -> nn.Module | None:
    return None


@dataclass(frozen=True)
class Op:
    """One operation.

    family: which models it belongs to; "any" for all. ranks: of the samples it takes. reads: how many values it takes, all of
    one shape. args: what is drawn. make: its module. do: (module, args, *tensors) -> a tensor or a tuple of them.
    whole: it needs a tensor whose first dimension is the batch; False for what works on any tensor.
    exact: it needs values that are the same to the bit on both sides (a comparison, a sort of indices).
    """

    name: str
    family: str
    ranks: tuple[int, ...]
    do: Callable[..., Any]
    make: Callable[[Shape, Args], nn.Module | None] = no_module
    args: Callable[[Shape], st.SearchStrategy[Args]] = nothing
    reads: int = 1
    whole: bool = True
    exact: bool = False
    dtype: torch.dtype = torch.float32


OPS: dict[str, Op] = {}

ANY_RANK = (0, 1, 2, 3, 4)


def add(name: str, family: str, ranks: tuple[int, ...], do: Callable[..., Any], **parts: Any) -> None:
    assert name not in OPS, name
    OPS[name] = Op(name, family, ranks, do, **parts)


def layer(name: str, ranks: tuple[int, ...], make: Callable[[Shape, Args], nn.Module], **parts: Any) -> None:
    """An operation that is a module of one input."""
    add(name, parts.pop("family", "any"), ranks, lambda module, args, x: module(x), make=make, **parts)


def plain(name: str, ranks: tuple[int, ...], do: Callable[[Tensor], Any], **parts: Any) -> None:
    """An operation without weights and arguments."""
    add(name, parts.pop("family", "any"), ranks, lambda module, args, x: do(x), **parts)


def one_of(**choices: Any) -> Callable[[Shape], st.SearchStrategy[Args]]:
    """Arguments that do not depend on the shape: a list of what each may be, or a strategy."""
    parts = {k: v if isinstance(v, st.SearchStrategy) else st.sampled_from(v) for k, v in choices.items()}
    return lambda shape: st.fixed_dictionaries(parts)
