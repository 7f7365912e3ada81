"""Fourier transforms: complex numbers are pairs in the last dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op


def _transform(x: Tensor, axis: int, length: int | None, inverse: bool, onesided: bool) -> Tensor:
    if inverse and onesided:  # the real signal of half a spectrum
        half = torch.complex(x[..., 0], x[..., 1])
        return torch.fft.irfft(half, length, axis)[..., None]
    if x.shape[-1] == 1 and not inverse:
        real = x[..., 0]
        made = torch.fft.rfft(real, length, axis) if onesided else torch.fft.fft(real, length, axis)
    else:
        given = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else torch.complex(x[..., 0], 0 * x[..., 0])
        made = torch.fft.ifft(given, length, axis) if inverse else torch.fft.fft(given, length, axis)
        if onesided and not inverse:
            made = made.narrow(axis, 0, made.shape[axis] // 2 + 1)
    return torch.view_as_real(made)


@op("DFT", since=17, numbers=(1,))
def dft_17(x: Tensor, length: n.Numbers = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    return _transform(x, axis % x.dim(), None if length is None else n.ints(length)[0], bool(inverse), bool(onesided))


@op("DFT", since=20, numbers=(1, 2))
def dft(x: Tensor, length: n.Numbers = None, axis: n.Numbers = None, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    dim = (-2 if axis is None else n.ints(axis)[0]) % x.dim()
    return _transform(x, dim, None if length is None else n.ints(length)[0], bool(inverse), bool(onesided))


@op("STFT", numbers=(1, 3))
def stft(
    x: Tensor, step: n.Numbers, window: Tensor | None = None, length: n.Numbers = None, *, onesided: int = 1
) -> Tensor:
    """[B, samples] or [B, samples, 1] -> [B, frames, bins, 2]."""
    size = n.ints(length)[0] if length is not None else window.shape[0]  # type: ignore[union-attr]
    real = x[..., 0] if x.dim() == 3 else x
    frames = real.unfold(-1, size, n.ints(step)[0])
    frames = frames if window is None else frames * window
    made = torch.fft.rfft(frames) if onesided else torch.fft.fft(frames)
    return torch.view_as_real(made)


def _window(size: int, first: float, second: float, third: float, periodic: int) -> Tensor:
    steps = torch.arange(size, dtype=torch.float64) * (2 * torch.pi / (size if periodic else size - 1))
    return first - second * torch.cos(steps) + third * torch.cos(2 * steps)


@op("HannWindow", "HammingWindow", "BlackmanWindow", numbers=(0,), builds=True)
def window(build: Any, size: Any, *, output_datatype: int = 1, periodic: int = 1) -> Any:
    parts = {
        "HannWindow": (0.5, 0.5, 0.0),
        "HammingWindow": (25 / 46, 21 / 46, 0.0),
        "BlackmanWindow": (0.42, 0.5, 0.08),
    }
    kind = build.onnx_dtype(output_datatype)
    return build.call(windowed, build.numbers(size, 0), parts=parts[build.node.op_type], periodic=periodic, dtype=kind)


def windowed(size: n.Numbers, *, parts: tuple[float, float, float], periodic: int, dtype: torch.dtype) -> Tensor:
    return _window(n.ints(size)[0], *parts, periodic).to(dtype)
