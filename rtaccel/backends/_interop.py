"""CuPy arrays as arguments and results of modules and compiled models: no copy, on CuPy's current stream.

An array becomes a tensor of the same memory by DLPack, the model runs on the stream that CuPy has current, so that what CuPy
launched before is done and what it launches afterwards waits, and results go back the same way. cupy is never imported here:
whoever passes its arrays has done that.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def cupy_of(*trees: Any) -> Any:
    """The cupy module where an argument is one of its arrays, else None."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return None
    return cupy if any(isinstance(leaf, cupy.ndarray) for leaf in pytree.tree_leaves(trees)) else None


def as_tensors(cupy: Any, tree: Any) -> Any:
    """The same nesting with tensors that share the memory of the arrays."""
    return pytree.tree_map(lambda leaf: torch.from_dlpack(leaf) if isinstance(leaf, cupy.ndarray) else leaf, tree)


def as_arrays(cupy: Any, tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: cupy.from_dlpack(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def on_stream_of(cupy: Any) -> contextlib.AbstractContextManager[Any]:
    """torch's current stream is CuPy's inside."""
    if not torch.cuda.is_available():
        return contextlib.nullcontext()  # arrays of a CUDA device do not exist here
    return torch.cuda.stream(torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr))


def call(cupy: Any, model: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """model(*inputs) with arrays in and arrays out."""
    with on_stream_of(cupy):
        return as_arrays(cupy, model(*as_tensors(cupy, inputs)))
