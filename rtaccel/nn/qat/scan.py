"""One direction of one LSTM or GRU layer over a window, with h in int8: forward step by step, backward by hand.

torch's own graph of such a loop has some fifty nodes for each time step, and takes ten times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rtaccel.kernels.recurrent.reference import LIMIT, P0, P1, P2, Q1, Q2


def _tanh(t: Tensor) -> Tensor:
    """The quotient that plans compute (rtaccel.kernels.recurrent.reference), within 5e-5 of tanh."""
    v = t.clamp(-LIMIT, LIMIT)
    z = v * v
    return v.mul_((P2 * z).add_(P1).mul_(z).add_(P0)).div_((Q2 * z).add_(Q1).mul_(z).add_(1.0))


def _sigmoid(t: Tensor) -> Tensor:
    return _tanh(0.5 * t).mul_(0.5).add_(0.5)


def _stepped(h: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """h in int8 and back, and where it was not clipped."""
    if scale is None:
        return h, None
    q = torch.round(h * (1.0 / scale))
    return q.clamp(-128, 127) * scale, (q >= -128) & (q <= 127)


def _stacked(parts: list[Any]) -> Any:
    return None if parts[0] is None else torch.stack(parts)


class LSTMScan(Function):
    """(x [T, B, 4H] the gates of the inputs, W [4H, H], b [4H] or None, h0, c0 [B, H], scale of h or None, whether it runs
    backwards) -> (y [T, B, H], h, c after)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, c: Tensor, scale: Tensor | None, back: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        order = list(reversed(range(len(x)))) if back else list(range(len(x)))
        y = x.new_empty(*x.shape[:2], weight.shape[1])
        kept: list[tuple[Any, ...]] = []
        for t in order:
            q, inside = _stepped(h, scale)
            i, f, g, o = (x[t] + torch.nn.functional.linear(q, weight, bias)).chunk(4, -1)
            i, f, g, o = _sigmoid(i), _sigmoid(f), _tanh(g), _sigmoid(o)
            before, c = c, f * c + i * g
            tanh_c = _tanh(c)
            h = o * tanh_c
            y[t] = h
            kept.append((q, inside, i, f, g, o, before, tanh_c))
        ctx.order = order
        ctx.save_for_backward(weight, *(_stacked(list(parts)) for parts in zip(*kept)))
        ctx.biased = bias is not None
        return y, h.clone(), c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        weight, q, inside, i, f, g, o, before, tanh_c = ctx.saved_tensors
        gates = q.new_empty(*q.shape[:2], weight.shape[0])
        slopes = i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)
        through = o * (1 - tanh_c * tanh_c)
        for k in reversed(range(len(ctx.order))):
            t = ctx.order[k]
            dh = dh + grad_y[t]
            dc = dc + dh * through[k]
            gates[k] = torch.cat(
                (dc * g[k] * slopes[0][k], dc * before[k] * slopes[1][k], dc * i[k] * slopes[2][k],
                 dh * tanh_c[k] * slopes[3][k]), -1,
            )  # fmt: skip
            dc = dc * f[k]
            dh = gates[k] @ weight
            if inside is not None:
                dh = dh * inside[k]
        flat = gates.flatten(0, 1)
        dx = gates.flip(0) if ctx.order[0] else gates
        return dx, flat.T @ q.flatten(0, 1), flat.sum(0) if ctx.biased else None, dh, dc, None, None


class GRUScan(Function):
    """As LSTMScan, of three gates and without c: (x [T, B, 3H], W [3H, H], b, h0, scale, backwards) -> (y, h after)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, scale: Tensor | None, back: bool
    ) -> tuple[Tensor, Tensor]:
        order = list(reversed(range(len(x)))) if back else list(range(len(x)))
        y = x.new_empty(*x.shape[:2], weight.shape[1])
        kept: list[tuple[Any, ...]] = []
        for t in order:
            q, inside = _stepped(h, scale)
            x_r, x_z, x_n = x[t].chunk(3, -1)
            h_r, h_z, h_n = torch.nn.functional.linear(q, weight, bias).chunk(3, -1)
            r, z = _sigmoid(x_r + h_r), _sigmoid(x_z + h_z)
            n = _tanh(x_n + r * h_n)
            before, h = h, (1 - z) * n + z * h
            y[t] = h
            kept.append((q, inside, r, z, n, h_n, before))
        ctx.order = order
        ctx.save_for_backward(weight, *(_stacked(list(parts)) for parts in zip(*kept)))
        ctx.biased = bias is not None
        return y, h.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        weight, q, inside, r, z, n, h_n, before = ctx.saved_tensors
        of_x = q.new_empty(*q.shape[:2], weight.shape[0])
        of_h = torch.empty_like(of_x)
        slope_n, slope_r, slope_z = 1 - n * n, r * (1 - r), (before - n) * z * (1 - z)
        for k in reversed(range(len(ctx.order))):
            dh = dh + grad_y[ctx.order[k]]
            dn = dh * (1 - z[k]) * slope_n[k]
            both = dn * h_n[k] * slope_r[k], dh * slope_z[k]
            of_x[k], of_h[k] = torch.cat((*both, dn), -1), torch.cat((*both, dn * r[k]), -1)
            back = of_h[k] @ weight
            dh = dh * z[k] + (back if inside is None else back * inside[k])
        flat = of_h.flatten(0, 1)
        dx = of_x.flip(0) if ctx.order[0] else of_x
        return dx, flat.T @ q.flatten(0, 1), flat.sum(0) if ctx.biased else None, dh, None, None
