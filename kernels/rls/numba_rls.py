"""Recursive least squares in Numba CUDA: one step of an online linear model, one block, in UD form.

P = U diag(D) U', U unit upper triangular, is updated in place, and stays symmetric and positive by construction: the
covariance form P = (P - k (P x)') / forget diverges on correlated features. Bierman, Factorization Methods for Discrete
Sequential Estimation, 1977, chapter V.

    f = U' x,  v = D f,  alpha_j = forget + the sum of f v up to j,  p_j = -f_j / alpha_{j-1}
    D_j = min(D_j alpha_{j-1} / (alpha_j forget), d_max)
    row i, columns j > i, from b = v_i:  U_ij' = U_ij + b p_j,  b += U_ij v_j
    w_i += b (y - w' x) / alpha

U [d, d], D [d], w [d], x [d], y [1], all float32; forget in (0, 1]. Columns are independent until alpha, rows after it:
a thread each. error [1] is y - w' x before learning. counts int64 [3], of which two are counted: samples that were learned, and
those that were not, as something in x or y is not finite. These change nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.kernels._gpu.numba_alias import NARROW_INDEX, PtxSpec, cuda, stream, view

MAX_D = 256
"""Features: a thread each, and arrays of shared memory."""

FLOAT32 = np.float32
LARGEST = FLOAT32(1e18)


@cuda.jit
def rls_kernel(u: Any, diagonal: Any, w: Any, x: Any, y: Any, error: Any, counts: Any, forget: Any, d_max: Any) -> None:
    d, i = x.shape[0], cuda.threadIdx.x
    f = cuda.shared.array(MAX_D, dtype=FLOAT32)
    v = cuda.shared.array(MAX_D, dtype=FLOAT32)
    p = cuda.shared.array(MAX_D, dtype=FLOAT32)
    grown = cuda.shared.array(MAX_D, dtype=FLOAT32)
    scalars = cuda.shared.array(2, dtype=FLOAT32)
    total = x[i]
    for k in range(i):
        total += u[k, i] * x[k]
    f[i] = total
    v[i] = diagonal[i] * total
    cuda.syncthreads()
    if i == 0:
        alpha, said, keep = FLOAT32(forget), FLOAT32(0), FLOAT32(forget)
        for j in range(d):
            before = alpha
            alpha = before + f[j] * v[j]
            p[j] = -f[j] / before
            grown[j] = diagonal[j] * before / (alpha * keep)
            said += w[j] * x[j]
        scalars[0] = alpha
        scalars[1] = y[0] - said
        error[0] = y[0] - said
    cuda.syncthreads()
    # Comparisons with NaN are false.
    fine = scalars[0] < LARGEST and scalars[1] < LARGEST and scalars[1] > -LARGEST
    if i == 0:
        counts[0 if fine else 1] += 1
    if fine:
        b = v[i]
        for j in range(i + 1, d):
            element = u[i, j]
            u[i, j] = element + b * p[j]
            b += element * v[j]
        w[i] += b * (scalars[1] / scalars[0])
        bound = FLOAT32(d_max)
        diagonal[i] = grown[i] if grown[i] < bound else bound


def rls_update(
    u: Tensor,
    diagonal: Tensor,
    w: Tensor,
    x: Tensor,
    y: Tensor,
    error: Tensor,
    counts: Tensor,
    forget: float = 1.0,
    d_max: float = 100.0,
) -> None:
    """Updates U [d, d], its diagonal D [d] and w [d] in place for one sample; U starts as ones on the diagonal, D as the
    variance of w in the beginning. y, error [1], counts int64 [3]. Raises ShapeError and FormatError for what is not as above."""
    d = x.shape[0] if x.dim() == 1 else -1
    shapes = tuple(tuple(t.shape) for t in (u, diagonal, w, x, y, error, counts))
    if not 1 <= d <= MAX_D or shapes != ((d, d), (d,), (d,), (d,), (1,), (1,), (3,)):
        raise ShapeError(
            "rls",
            f"U, D, w, x, y, error, counts {shapes}",
            f"[d, d], [d], [d], [d], [1], [1], [3] with d up to {MAX_D}",
            "Match them.",
        )
    if not 0.0 < forget <= 1.0:
        raise FormatError("rls", f"forget={forget}", "a number in (0, 1]", "Take 1 to forget nothing.")
    if not 0.0 < d_max < float("inf"):
        raise FormatError("rls", f"d_max={d_max}", "a positive finite number", "Take 100.")
    rls_kernel[1, d, stream()](*map(view, (u, diagonal, w, x, y, error, counts)), forget, d_max)


def ptx_forms() -> Iterator[PtxSpec]:
    """Divisions round as IEEE says; products may fuse with their sums."""
    vectors = ", ".join(["float32[::1]"] * 5)
    signature = f"void(float32[:,::1], {vectors}, int64[::1], float64, float64)"
    yield PtxSpec("rls", rls_kernel, signature, (r"div\.rn\.f32", r"bar\.sync"), (NARROW_INDEX, r"div\.(approx|full)"))
