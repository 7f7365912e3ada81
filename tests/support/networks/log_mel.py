"""The features of MLPerf Tiny's streaming wake word: log-mel energies of 64 ms, every 32 ms."""

from __future__ import annotations

import torch
from torch import Tensor

RATE, WINDOW, STRIDE, BANDS = 16000, 1024, 512, 40
_EMPHASIS = 1 - 2**-5
_OFFSET_DB, _RANGE_DB = 52, 64
"""Energies from -52 dB to 12 dB become 0 to 1."""


def mel_bands() -> Tensor:
    """Weights [frequencies, bands]: triangles of equal width on the mel scale, 1127 ln(1 + f / 700), without 0 Hz."""
    mel = 1127 * torch.log1p(torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64) / 700)
    edges = torch.linspace(0, float(mel[-1]), BANDS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights.float()


def log_mel(audio: Tensor) -> Tensor:
    """Samples in -1 .. 1 to features [frames, 40] in 0 .. 1."""
    sharpened = torch.cat([audio[:1], audio[1:] - _EMPHASIS * audio[:-1]])
    frames = sharpened.unfold(0, WINDOW, STRIDE) * torch.hamming_window(WINDOW, periodic=False)
    power = torch.fft.rfft(frames).abs().square() / WINDOW
    decibels = 10 * torch.log10((power @ mel_bands()).clamp(min=1e-30))
    return ((decibels + _OFFSET_DB) / _RANGE_DB).clamp(0, 1)
