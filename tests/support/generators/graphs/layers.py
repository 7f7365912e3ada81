"""Layers with weights, products of values, pooling, interpolation, recurrence, attention and Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.generators.graphs.program import Draw, Made

F = nn.functional


def drawn(draw: Draw, layer: nn.Module) -> nn.Module:
    """With parameters of the draw, scaled as torch scales them."""
    for parameter in layer.parameters():
        size = parameter[0].numel() if parameter.dim() > 1 else 4
        parameter.data = draw.tensor(*parameter.shape) / max(size, 1) ** 0.5
    return layer


def linear(draw: Draw, x: Tensor, other: Tensor) -> Made:
    layer = drawn(draw, nn.Linear(x.shape[-1], draw.of(1, 3, 4, 8, 17, 32), bias=draw.of(True, True, False)))
    return Made(lambda m, a, b: m(a), layer)


def product(draw: Draw, x: Tensor, other: Tensor) -> Made:
    k = x.shape[-1]
    if x.dim() != other.dim():
        raise ValueError("of other ranks")
    return Made(
        draw.of(
            lambda a, b: a @ b,
            lambda a, b: a @ a.transpose(-1, -2) / k,
            lambda a, b: a.transpose(-1, -2) @ b,
            lambda a, b: torch.einsum("b...i,b...i->b...", a, b),
            lambda a, b: torch.einsum("bi,bj->bij", a, b),
            lambda a, b: torch.baddbmm(a, a @ a.transpose(-1, -2) / k, a, beta=0.5),
            lambda a, b: torch.einsum("bij,bkj->bik", a, b),
            lambda a, b: (a.unsqueeze(-1) * b.unsqueeze(-2)).sum(-1),
        )
    )


def attention(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 3:
        raise ValueError("no sequence")
    causal, length = draw.of(True, False), x.shape[-2]
    layer = nn.Module()
    layer.register_buffer("mask", draw.tensor(length, length) > -0.7)
    layer.register_buffer("bias", draw.tensor(length, length))
    layer.mask[:, 0] = True
    return Made(
        draw.of(
            lambda m, a, b: F.scaled_dot_product_attention(a, a, a, is_causal=causal),
            lambda m, a, b: F.scaled_dot_product_attention(a, b, b),
            lambda m, a, b: F.scaled_dot_product_attention(a, a, a, m.mask),
            lambda m, a, b: F.scaled_dot_product_attention(a, a, a, m.bias.to(a.dtype)),
        ),
        layer,
    )


def multihead(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() != 3 or x.shape[-1] % 2:
        raise ValueError("no sequence")
    layer = drawn(draw, nn.MultiheadAttention(x.shape[-1], draw.of(1, 2), batch_first=True))
    return Made(lambda m, a, b: m(a, a, a, need_weights=False)[0], layer)


def convolve(draw: Draw, x: Tensor, other: Tensor) -> Made:
    rank, channels = x.dim() - 2, x.shape[1]
    plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    turned = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    if rank not in plain:
        raise ValueError("no image")
    groups = draw.of(*(n for n in (1, 1, 1, 2, channels) if channels % n == 0))
    filters = draw.of(1, 2, 4, 8, 17)
    kind = draw.of(plain, plain, plain, turned)[rank]
    layer = drawn(
        draw,
        kind(
            channels,
            filters if filters % groups == 0 else groups,
            draw.of(1, 2, 3),
            draw.of(1, 1, 2),
            padding=draw.of(0, 1),
            groups=groups,
            dilation=draw.of(1, 1, 2),
            bias=draw.of(True, False),
        ),
    )
    return Made(lambda m, a, b: m(a), layer)


POOLS = {
    1: (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d, F.lp_pool1d),
    2: (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.lp_pool2d),
    3: (F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
}


def pool(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() - 2 not in POOLS:
        raise ValueError("no image")
    top, mean, adaptive_mean, adaptive_top, *norm = POOLS[x.dim() - 2]
    kernel, stride, padding, size = draw.of(2, 3), draw.of(None, 1, 2), draw.of(0, 1), draw.of(1, 2, 3)
    ceil, counted = draw.of(True, False), draw.of(True, False)
    return Made(
        draw.of(
            lambda a, b: top(a, kernel, stride, padding, ceil_mode=ceil),
            lambda a, b: adaptive_mean(a, size),
            lambda a, b: mean(a, kernel, stride, padding, ceil, counted),
            lambda a, b: adaptive_top(a, size),
            *(lambda a, b, norm=n: norm(a.abs() + 0.1, 2.0, kernel, stride, ceil) for n in norm),
        )
    )


def interpolate(draw: Draw, x: Tensor, other: Tensor) -> Made:
    modes = {
        3: ("nearest", "linear"),
        4: ("nearest", "bilinear", "bicubic", "nearest-exact"),
        5: ("nearest", "trilinear"),
    }
    if x.dim() not in modes:
        raise ValueError("no image")
    mode = draw.of(*modes[x.dim()])
    corners = draw.of(True, False) if mode.endswith(("linear", "cubic")) else None
    factor = draw.of(2, 2, 3)
    return Made(lambda a, b: F.interpolate(a, scale_factor=factor, mode=mode, align_corners=corners))


def recurrent(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() != 3:
        raise ValueError("no sequence")
    kind, both = draw.of(nn.LSTM, nn.GRU, nn.RNN), draw.of(True, False)
    layer = drawn(draw, kind(x.shape[-1], draw.of(3, 8), draw.of(1, 2), batch_first=True, bidirectional=both))
    if draw.of(True, False):
        return Made(lambda m, a, b: m(a)[0], layer)
    last = (lambda h: h[0][-1]) if kind is nn.LSTM else lambda h: h[-1]
    return Made(lambda m, a, b: last(m(a)[1]), layer)


def cell(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() != 2:
        raise ValueError("no row")
    kind = draw.of(nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    layer = drawn(draw, kind(x.shape[-1], 6))
    return Made((lambda m, a, b: m(a)[0]) if kind is nn.LSTMCell else lambda m, a, b: m(a), layer)


def spectrum(draw: Draw, x: Tensor, other: Tensor) -> Made:
    """Without a phase, which jumps at a full turn."""
    if x.dim() < 2 or x.shape[-1] < 4:
        raise ValueError("too short")
    return Made(
        draw.of(
            lambda a, b: torch.fft.rfft(a).abs(),
            lambda a, b: torch.view_as_real(torch.fft.rfft(a)),
            lambda a, b: torch.fft.fft(a).real,
            lambda a, b: torch.fft.irfft(torch.fft.rfft(a) * 0.5, n=a.shape[-1]),
            lambda a, b: torch.fft.rfft(a).abs().square().add(1).log(),
        )
    )


def bilinear(draw: Draw, x: Tensor, other: Tensor) -> Made:
    layer = drawn(draw, nn.Bilinear(x.shape[-1], other.shape[-1], 4))
    return Made(lambda m, a, b: m(a, b), layer)


KINDS = (
    linear,
    linear,
    linear,
    product,
    product,
    attention,
    multihead,
    convolve,
    convolve,
    convolve,
    pool,
    pool,
    interpolate,
    recurrent,
    cell,
    spectrum,
    bilinear,
)
