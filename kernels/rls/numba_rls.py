"""Recursive least squares in Numba CUDA: one step of an online linear model, one block, P updated in place.

    k = P x / (forget + x' P x),  w += k (y - w' x),  P = (P - k (P x)') / forget

P [d, d] symmetric, w [d], x [d], y a number, all float32; forget in (0, 1]. Haykin, Adaptive Filter Theory, chapter 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.kernels._gpu.numba_alias import NARROW_INDEX, PtxSpec, cuda, stream, view

MAX_D = 256
"""Features: a thread each, and one array of shared memory."""

FLOAT32 = np.float32


@cuda.jit
def rls_kernel(p: Any, w: Any, x: Any, y: Any, forget: Any) -> None:
    d, i = x.shape[0], cuda.threadIdx.x
    px = cuda.shared.array(MAX_D, dtype=FLOAT32)
    scalars = cuda.shared.array(2, dtype=FLOAT32)
    total = FLOAT32(0)
    for j in range(d):
        total += p[i, j] * x[j]
    px[i] = total
    cuda.syncthreads()
    if i == 0:
        gain, said = FLOAT32(forget), FLOAT32(0)
        for j in range(d):
            gain += x[j] * px[j]
            said += w[j] * x[j]
        scalars[0] = gain
        scalars[1] = FLOAT32(y) - said
    cuda.syncthreads()
    k = px[i] / scalars[0]
    w[i] += k * scalars[1]
    for j in range(d):
        p[i, j] = (p[i, j] - k * px[j]) / FLOAT32(forget)


def rls_update(p: Tensor, w: Tensor, x: Tensor, y: float, forget: float = 1.0) -> None:
    """Updates P [d, d] and w [d] in place for one sample. Raises ShapeError and FormatError for what is not as above."""
    d = x.shape[0] if x.dim() == 1 else -1
    shapes = (tuple(p.shape), tuple(w.shape), tuple(x.shape))
    if not 1 <= d <= MAX_D or shapes != ((d, d), (d,), (d,)):
        raise ShapeError("rls", f"P, w, x {shapes}", f"[d, d], [d], [d] with d up to {MAX_D}", "Match them.")
    if not 0.0 < forget <= 1.0:
        raise FormatError("rls", f"forget={forget}", "a number in (0, 1]", "Take 1 to forget nothing.")
    rls_kernel[1, d, stream()](view(p), view(w), view(x), y, forget)


def ptx_forms() -> Iterator[PtxSpec]:
    """Divisions round as IEEE says; products may fuse with their sums."""
    signature = "void(float32[:,::1], float32[::1], float32[::1], float64, float64)"
    yield PtxSpec("rls", rls_kernel, signature, (r"div\.rn\.f32", r"bar\.sync"), (NARROW_INDEX, r"div\.(approx|full)"))
