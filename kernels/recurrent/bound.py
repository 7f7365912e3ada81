"""How far float32 recurrent kernels may be from the exact result: a running bound, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.core.registry import Tolerance
from rtaccel.core.stage import Stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.lengths import counts_of, going, until

EPS = torch.finfo(torch.float32).eps
FUNCTION = 8 * EPS  # of sigmoid and tanh, absolute: kernels/_common/activations


def lstm_bound(
    x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor, error_h: Tensor, c: Tensor, error_c: Tensor
):
    """States and their errors after a time step. x, h: pairs of the gates' sums and of the error of the sum.

    sigmoid has slope 1/4 and tanh 1; each of the products and sums adds half a unit of the last place of its size.
    """
    t, error = x[0] + h[0] + bias, x[1] + h[1] + EPS * (x[0].abs() + h[0].abs() + bias.abs())
    i, f, g, o = t.chunk(4, -1)
    e_i, e_f, e_g, e_o = (error / torch.tensor(4.0) + FUNCTION).chunk(4, -1)
    e_g = error.chunk(4, -1)[2] + FUNCTION
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    new_error = e_f * c.abs() + error_c * (1 + e_f) + e_i + e_g + 2 * EPS * (c.abs() + 1)
    new_h = torch.sigmoid(o) * torch.tanh(new_c)
    return new_h, e_o + new_error + FUNCTION + EPS, new_c, new_error


def gru_bound(x: Tensor, h: Tensor, bias: Tensor, bias_n: Tensor, old_h: Tensor, error_h: Tensor):
    (x_r, x_z, x_n), (h_r, h_z, h_n), (b_r, b_z, b_n) = x[0].chunk(3, -1), h[0].chunk(3, -1), bias.chunk(3, -1)
    (ex_r, ex_z, ex_n), (eh_r, eh_z, eh_n) = x[1].chunk(3, -1), h[1].chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r + b_r), torch.sigmoid(x_z + h_z + b_z)
    e_r = (ex_r + eh_r + EPS * (x_r.abs() + h_r.abs() + b_r.abs())) / 4 + FUNCTION
    e_z = (ex_z + eh_z + EPS * (x_z.abs() + h_z.abs() + b_z.abs())) / 4 + FUNCTION
    inner = (h_n + bias_n).abs()
    n = torch.tanh(x_n + b_n + r * (h_n + bias_n))
    e_n = ex_n + eh_n + (e_r + 2 * EPS) * inner + EPS * (x_n.abs() + b_n.abs() + inner) + FUNCTION
    error = e_n + e_z * (1 + old_h.abs()) + error_h * (1 + e_z) + 3 * EPS * (1 + old_h.abs())
    return (1 - z) * n + z * old_h, error


def rnn_tanh_bound(x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor, error_h: Tensor):
    t, error = _total(x, h, bias)
    return torch.tanh(t), error + FUNCTION


def rnn_relu_bound(x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor, error_h: Tensor):
    t, error = _total(x, h, bias)
    return torch.relu(t), error


def _total(x: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x[0] + h[0] + bias, x[1] + h[1] + 2 * EPS * (x[0].abs() + h[0].abs() + bias.abs())


def float_tolerance(
    stage: Stage, low: dict, cell: Callable[..., tuple[Tensor, ...]], count: int, bounded: bool, *inputs: Tensor
) -> Tolerance:
    """The largest bound over all outputs; numbers that are not finite take no part in it. cell: one of those above, of
    `count` states. bounded:
    whether a new h lies between the old one and -1 or 1."""
    geometry = Geometry.of(stage.attrs)
    x = geometry.time_steps(inputs[0]).double().nan_to_num(0.0, 0.0, 0.0)
    counts, given = counts_of(stage, *inputs)
    states = [geometry.streams(s).double().nan_to_num(0.0, 0.0, 0.0) for s in given]
    if not states:
        states = [x.new_zeros(geometry.layers * geometry.directions, x.shape[1], geometry.hidden)] * count
    most = 2 * max(1.0, states[0].abs().max().item()) if bounded else torch.inf  # whatever its errors
    error, worst = torch.zeros_like(x), 0.0
    for layer in range(geometry.layers):
        outputs, errors = [], []
        for direction in range(geometry.directions):
            index = layer * geometry.directions + direction
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            names = (f"weight_ih{suffix}", f"weight_hh{suffix}", f"bias{suffix}", f"bias_n{suffix}")
            weight_x, weight_h, bias, bias_n = (low[n].double() if n in low else None for n in names)
            now = [part for state in states for part in (state[index], torch.zeros_like(state[index]))]
            found, found_error = [now[0]] * geometry.time, [now[1]] * geometry.time
            for t in reversed(range(geometry.time)) if direction else range(geometry.time):
                pairs = [_sum(weight_x, x[t], error[t]), _sum(weight_h, now[0], now[1])]
                now = list(going(t, counts, cell(*pairs, bias, bias_n, *now), tuple(now)))
                now[1] = now[1].clamp(max=most)
                found[t], found_error[t] = now[0], now[1]
            outputs.append(until(counts, torch.stack(found)))
            errors.append(until(counts, torch.stack(found_error)))
            worst = max([worst, *(part.max().item() for part in now[1::2])])
        x, error = torch.cat(outputs, -1), torch.cat(errors, -1)
        worst = max(worst, error.max().item())
    return Tolerance(atol=worst)


def _sum(weight: Tensor, x: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """A sum of K products in any order, and what it can be off by."""
    size = weight.shape[1] + 1
    return x @ weight.T, (EPS * size * x.abs() + error) @ weight.abs().T
