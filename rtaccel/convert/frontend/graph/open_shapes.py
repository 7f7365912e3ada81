"""Calls on tensors without data, made for what they say of shapes: an open size stays open.

In C++ a composite call of torch's asks for sizes as numbers. A tensor with an open size then answers with the example's, and
the size is closed in the whole graph. It depends on the call and the version: `matmul` and `linear` do so up to torch 2.11, `pad`
and `gru` in all. Their Python forms leave it open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.utils import _pytree as pytree


@contextmanager
def open_shapes(values: Any) -> Iterator[None]:
    """Calls in it give tensors without data where one of the tensors in `values` is one."""
    with detect_fake_mode(pytree.tree_leaves(values)) or nullcontext(), leaves_open(values):
        yield


@contextmanager
def leaves_open(values: Any) -> Iterator[None]:
    """Calls in it take the open sizes of the tensors in `values` as they are."""
    sizes = [n for v in pytree.tree_leaves(values) if isinstance(v, Tensor) for n in v.shape]
    with enable_python_dispatcher() if any(isinstance(n, torch.SymInt) for n in sizes) else nullcontext():
        yield
