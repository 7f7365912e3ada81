"""Short-time Fourier transforms: overlapping frames, a window, and a transform of each."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.fourier import forward, inverse_to_real
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, rule


def _window(window: Tensor | None, length: int, n: int) -> Tensor:
    """In the middle of n samples."""
    given = torch.ones(length) if window is None else window
    before = (n - length) // 2
    return given if length == n else torch.nn.functional.pad(given, (before, n - length - before))


@rule(aten.stft.default)
def _stft(
    x: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    if isinstance(x, Pair) or isinstance(window, Pair) or align_to_window:
        raise NoPairs("a short-time transform of complex numbers")
    hop = n_fft // 4 if hop_length is None else hop_length
    own = _window(window, n_fft if win_length is None else win_length, n_fft)
    wanted = n_fft if onesided is False else n_fft // 2 + 1
    scale = 1.0 / sqrt(n_fft) if normalized else 1.0
    given = Pair(x.unfold(-1, n_fft, hop))
    if onesided is False:
        given = Pair(given.re * own, torch.zeros_like(given.re))
    found = forward(given, n_fft, wanted, scale, window=own if onesided is not False else None)
    made = Pair(*(part.transpose(-1, -2) for part in found))
    return made if return_complex else torch.stack(list(made), -1)


@rule(aten.stft.center)
def _stft_centered(
    x: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    pad_mode: str = "reflect",
    *rest: Any,
) -> Any:
    if center:
        sides = (n_fft // 2, n_fft // 2)
        x = torch.nn.functional.pad(x.reshape(1, prod(x.shape[:-1]), x.shape[-1]), sides, mode=pad_mode).reshape(
            *x.shape[:-1], x.shape[-1] + 2 * sides[0]
        )
    return _stft(x, n_fft, hop_length, win_length, window, *rest)


@rule(aten.istft.default)
def _istft(
    x: Pair,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    hop = n_fft // 4 if hop_length is None else hop_length
    if n_fft % hop or onesided is False or return_complex or isinstance(window, Pair):
        raise NoPairs("an inverse short-time transform of this kind")
    count = x.re.shape[-1]
    if not isinstance(count, int):
        raise NoPairs("an inverse short-time transform of an open length")
    own = _window(window, n_fft if win_length is None else win_length, n_fft)
    scale = 1.0 / sqrt(n_fft) if normalized else 1.0 / n_fft
    spectrum = Pair(*(part.transpose(-1, -2) for part in (x.re, x.imaginary)))
    signal = _overlapped(inverse_to_real(spectrum, n_fft, scale) * own, hop)
    envelope = _overlapped((own * own).expand(count, n_fft), hop)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else signal.shape[-1] - start
    found = signal[..., start:end] / envelope[start:end]
    missing = 0 if length is None else length - (min(end, signal.shape[-1]) - start)
    return torch.nn.functional.pad(found, (0, missing)) if missing > 0 else found


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """[.., count, n] added up where they overlap, each `hop` after the one before."""
    count, n = frames.shape[-2:]
    parts = n // hop
    pieces = frames.reshape(*frames.shape[:-1], parts, hop)
    total: Any = None
    for i in range(parts):
        piece = torch.nn.functional.pad(pieces[..., i, :], (0, 0, i, parts - 1 - i))
        total = piece if total is None else total + piece
    return total.reshape(*frames.shape[:-2], (count + parts - 1) * hop)
