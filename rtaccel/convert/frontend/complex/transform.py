"""A Fourier transform as one call of the graph, until a kernel or matrices take its place."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("rtaccel::transform", mutates_args=())
def transform(x: Tensor, window: Tensor | None, kind: str, n: int, wanted: int, inverse: bool, scale: float) -> Tensor:
    """Along the last dimension. Complex numbers are their real parts, then their imaginary ones.

    kind: "real" (x: n numbers, times the window), "complex" (x: 2 n), or "to_real" (x: n // 2 + 1 complex numbers that the
    transform of the result begins with; the result: n numbers). Else the result is the first `wanted` numbers, complex.
    inverse: a + in the exponent.
    """
    if not x.numel():  # torch's own refuses it
        return x.new_empty((*x.shape[:-1], n if kind == "to_real" else 2 * wanted))
    if kind == "to_real":
        return torch.fft.irfft(torch.complex(*x.chunk(2, -1)), n=n, norm="forward") * scale
    given = (x if window is None else x * window) if kind == "real" else torch.complex(*x.chunk(2, -1))
    found = (torch.fft.ifft(given, norm="forward") if inverse else torch.fft.fft(given))[..., :wanted] * scale
    return torch.cat([found.real, found.imag], -1)


@transform.register_fake
def _(x: Tensor, window: Tensor | None, kind: str, n: int, wanted: int, inverse: bool, scale: float) -> Tensor:
    return x.new_empty((*x.shape[:-1], n if kind == "to_real" else 2 * wanted))


TARGET = torch.ops.rtaccel.transform.default
