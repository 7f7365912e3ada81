"""NumPy arrays and whatever else exports DLPack, where a tensor of the CPU is taken: the same memory, seen as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.errors import ShapeError


def is_foreign(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (not isinstance(value, Tensor) and hasattr(value, "__dlpack__"))


def holds_foreign(*trees: Any) -> bool:
    return any(is_foreign(leaf) for tree in trees for leaf in pytree.tree_leaves(tree))


def as_tensors(op: str, tree: Any, written: bool = False) -> Any:
    """The same nesting with tensors in place of arrays. written: they are to be written into.

    Raises ShapeError for an array that torch cannot see, and for one that may not be written where it has to be.
    """
    return pytree.tree_map(lambda leaf: _tensor(op, leaf, written) if is_foreign(leaf) else leaf, tree)


def _tensor(op: str, array: Any, written: bool) -> Tensor:
    try:
        if isinstance(array, np.ndarray):
            backwards = any(stride < 0 for stride in array.strides)
            if array.flags.writeable and not backwards:
                return torch.from_numpy(array)
            if not written:
                return torch.from_numpy(array.copy())
            if backwards:
                raise ValueError("it runs backwards in memory")
        else:
            return torch.from_dlpack(array)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise ShapeError(
            op, f"{_describe(array)}: {str(error).splitlines()[0]}", "an array that torch can see", "Convert it."
        ) from error
    raise ShapeError(op, f"{_describe(array)}, which is read-only", "memory that may be written", "Pass a copy.")


def _describe(array: Any) -> str:
    return f"{type(array).__name__} {getattr(array, 'dtype', '')}{list(getattr(array, 'shape', ()))}"
