"""Layers and functions of images: convolutions, pools, norms, resampling, attention and recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.operators.calls import IMAGE, Operation

_CONVOLUTIONS: tuple[tuple[nn.Module, tuple[int, ...]], ...] = (
    (nn.Conv1d(16, 32, 3, padding=1), (400,)), (nn.Conv1d(1, 16, 64, 16), (8000,)), (nn.Conv1d(64, 64, 9, padding=4), (200,)),
    (nn.Conv1d(64, 64, 3, padding=8, dilation=8), (200,)), (nn.Conv1d(96, 96, 31, padding=15, groups=96), (150,)),
    (nn.Conv2d(3, 32, 3, 2, 1), (128, 128)), (nn.Conv2d(32, 32, 3, padding=1), (56, 56)), (nn.Conv2d(64, 64, 1), (28, 28)),
    (nn.Conv2d(64, 64, 3, padding=4, dilation=4), (28, 28)), (nn.Conv2d(64, 64, 3, padding=12, dilation=12), (14, 14)),
    (nn.Conv2d(64, 64, 5, padding=2), (28, 28)), (nn.Conv2d(64, 64, 3, 2, 1), (28, 28)),
    (nn.Conv2d(64, 64, 3, padding=1, groups=8), (28, 28)),
    (nn.Conv2d(96, 96, 3, padding=1, groups=96), (28, 28)), (nn.Conv2d(16, 16, 7, padding=3, groups=16), (56, 56)),
    (nn.Conv2d(96, 96, 7, padding=3, groups=96), (28, 28)), (nn.Conv2d(120, 120, 5, 2, 2, groups=120), (28, 28)),
    (nn.Conv2d(96, 96, 9, padding=4, groups=96), (28, 28)), (nn.Conv2d(96, 96, (1, 11), padding=(0, 5), groups=96), (28, 28)),
    (nn.Conv2d(96, 96, (11, 1), padding=(5, 0), groups=96), (28, 28)), (nn.Conv2d(24, 48, 3, padding=1, groups=24), (28, 28)),
    (nn.Conv2d(1, 16, 5, padding=2), (64, 64)), (nn.Conv2d(16, 1, 5, padding=2), (64, 64)), (nn.Conv2d(3, 96, 4, 4), (224, 224)),
    (nn.Conv2d(256, 256, 3, padding=1), (7, 7)), (nn.Conv3d(8, 16, 3, padding=1), (8, 24, 24)),
    (nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), (8, 24, 24)), (nn.Conv3d(32, 32, 3, padding=1, groups=32), (8, 14, 14)),
    (nn.ConvTranspose1d(32, 16, 4, 2, 1), (200,)), (nn.ConvTranspose2d(32, 16, 2, 2), (28, 28)),
    (nn.ConvTranspose2d(32, 16, 4, 2, 1), (28, 28)),
    (nn.ConvTranspose2d(24, 24, 4, 2, 1, groups=24), (28, 28)), (nn.ConvTranspose3d(8, 8, 2, 2), (6, 12, 12)),
)  # fmt: skip


class First(nn.Module):
    """The first result of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


class ToItself(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, x, x, need_weights=False)[0]


def operations() -> Iterator[Operation]:
    for layer, size in _CONVOLUTIONS:
        yield Operation(f"{layer} of {size}", layer, ((1, int(layer.in_channels), *size),))  # type: ignore[call-overload]
    for groups in (1, 3, 8, 24):
        yield Operation(f"group_norm {groups}", lambda x, g=groups: F.group_norm(x, g))
        yield Operation(
            f"group_norm {groups} behind a convolution", nn.Sequential(nn.Conv2d(24, 24, 1), nn.GroupNorm(groups, 24))
        )
    for dims in ((36,), (40, 36), (24, 40, 36)):
        yield Operation(f"layer_norm {dims}", lambda x, d=dims: F.layer_norm(x, d))
    yield Operation("rms_norm", lambda x: F.rms_norm(x, (36,)))
    for kernel, stride in ((2, 2), (3, 1), (3, 2), (5, 1), (7, 3)):
        yield Operation(f"max_pool2d {kernel}, {stride}", lambda x, k=kernel, s=stride: F.max_pool2d(x, k, s))
        yield Operation(f"avg_pool2d {kernel}, {stride}", lambda x, k=kernel, s=stride: F.avg_pool2d(x, k, s))
    for size in (1, 3, 7):
        yield Operation(f"adaptive_avg_pool2d {size}", lambda x, n=size: F.adaptive_avg_pool2d(x, n))
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        for factor in (2, 0.5, 1.5):
            yield Operation(
                f"interpolate {mode} {factor}", lambda x, m=mode, f=factor: F.interpolate(x, scale_factor=f, mode=m)
            )
    for mode in ("reflect", "replicate", "circular", "constant"):
        yield Operation(f"pad {mode}", lambda x, m=mode: F.pad(x, (3, 2, 1, 4), mode=m))
    yield Operation("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2))
    yield Operation("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2))
    yield Operation("channel_shuffle", lambda x: x.view(1, 4, 6, 40, 36).transpose(1, 2).reshape(IMAGE))
    yield Operation("unfold", lambda x: F.unfold(x, 3, padding=1))
    for heads, steps, depth in ((4, 64, 32), (1, 200, 64), (8, 50, 16), (12, 197, 64)):
        shapes = ((1, heads, steps, depth),) * 3
        yield Operation(f"attention {heads} heads, {steps} x {depth}", F.scaled_dot_product_attention, shapes)
    for made, shape in (
        (nn.LSTM(32, 64, batch_first=True), (1, 50, 32)), (nn.GRU(32, 64, 2, batch_first=True), (1, 50, 32)),
        (nn.LSTM(32, 64, batch_first=True, bidirectional=True), (1, 50, 32)), (nn.LSTM(64, 256, batch_first=True), (1, 20, 64)),
    ):  # fmt: skip
        yield Operation(f"{made} of {shape[1]} steps", First(made), (shape,))
    yield Operation("MultiheadAttention", ToItself(), ((1, 60, 64),))
    yield Operation("TransformerEncoderLayer", nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), ((1, 60, 64),))
