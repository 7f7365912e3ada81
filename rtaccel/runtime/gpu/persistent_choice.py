"""Which of several persistent kernels a network may take: any, or inside `only` a single one, to measure one beside another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TRITON = "triton_persistent"
CUDA_CHAIN, CUDA_STACK = "cuda_chain", "cuda_recurrent"
"""Those in CUDA C++: of layers one after another, and of recurrent layers."""

_only: list[str] = []


@contextmanager
def only(kernel: str) -> Iterator[None]:
    """Persistent networks that are made inside take this kernel or none."""
    _only.append(kernel)
    try:
        yield
    finally:
        _only.remove(kernel)


def allowed(kernel: str) -> bool:
    return not _only or kernel in _only
