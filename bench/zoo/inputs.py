"""Inputs that look like those of the domain: smooth images, band-limited sound, wandering series. All with batch 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def image(channels: int, height: int, width: int | None = None) -> Tensor:
    """float32 [1, channels, height, width], normalized: coarse shapes and fine grain."""
    width = width or height
    coarse = torch.randn(1, channels, max(2, height // 8), max(2, width // 8))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return smooth + 0.2 * torch.randn(1, channels, height, width)


def sound(samples: int, *lead: int) -> Tensor:
    """float32 [*lead, samples], most of it within 0.3: noise through a short low pass, with a tone. lead: [1, 1] if none."""
    lead = lead or (1, 1)
    time = torch.arange(samples) / 16000
    noise = F.avg_pool1d(torch.randn(1, 1, samples + 4), 5, 1)[0, 0]
    return (0.1 * torch.sin(2 * torch.pi * 440 * time) + 0.1 * noise).expand(*lead, samples).clone()


def spectrum(frames: int, bins: int, *lead: int) -> Tensor:
    """Log-mel features, float32 [*lead, frames, bins], lead [1] if none."""
    lead = lead or (1,)
    slope = torch.linspace(1.0, -1.0, bins)
    return slope + 0.5 * torch.randn(*lead, frames, bins)


def series(steps: int, channels: int) -> Tensor:
    """Standardized random walks, float32 [1, steps, channels]."""
    walk = torch.randn(1, steps, channels).cumsum(1)
    return (walk - walk.mean(1, keepdim=True)) / (walk.std(1, keepdim=True) + 1e-3)


def channels_first(channels: int, steps: int) -> Tensor:
    """Standardized random walks, float32 [1, channels, steps]."""
    return series(steps, channels).transpose(1, 2).contiguous()


def observation(width: int) -> Tensor:
    """What a controller reads, float32 [1, width], clipped to [-5, 5]."""
    return torch.randn(1, width).clamp(-5, 5)


def tokens(count: int, vocabulary: int) -> Tensor:
    """int64 [1, count]."""
    return torch.randint(0, vocabulary, (1, count))
