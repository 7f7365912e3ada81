"""Which of several persistent kernels a network may take: any, or inside `only` those that are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TRITON = "triton_persistent"
CUDA_CHAIN, CUDA_STACK = "cuda_chain", "cuda_recurrent"
"""Those in CUDA C++: of layers one after another, and of recurrent layers."""

_only: list[tuple[str, ...]] = []


@contextmanager
def only(*kernels: str) -> Iterator[None]:
    """Persistent networks that are made inside take one of these kernels or none."""
    _only.append(kernels)
    try:
        yield
    finally:
        _only.remove(kernels)


def allowed(kernel: str) -> bool:
    return not _only or any(kernel in kernels for kernels in _only)
