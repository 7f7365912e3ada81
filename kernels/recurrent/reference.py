"""Recurrent layers in plain torch: float64 for float32 weights, and the exact arithmetic for int8 and int4 ones.

Quantized gates, for each unit and gate

    t = (float32(acc_x) * multiplier_x + float32(acc_h) * multiplier_h) + bias      each product and sum rounded

with exact int32 sums; int4: acc = sum over groups, in order, of fma(float32(group sum), group_scale, acc). multiplier is
weight scale * activation scale (float32), int4: the activation scale alone; of a dynamic row times its row_scale.

tanh is a quotient, and so is sigmoid(t) = (1 + tanh(t / 2)) / 2, of which a cell makes two divisions only:

    v = clamp(t, -5, 5), z = v^2, tanh ~ num / den,
    num = v * (0.99981013 + 0.10172323 z + 6.5494682e-4 z^2), den = 1 + 0.43450415 z + 0.01263921 z^2   Horner, by fma

Its largest error is 5e-5 (a minimax fit of the quotient on 0..5; what is left at 5 is the tail of tanh), and its largest
value 0.99996, so |h| < 1. fma is rounded once, here too, so that every backend gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import Stage
from rtaccel.formats import int4
from rtaccel.formats.int8 import dynamic, to_int8
from rtaccel.kernels.recurrent.layout import Geometry, quantized, sparse
from rtaccel.kernels.recurrent.lengths import counts_of, going, there, until

P0, P1, P2 = 0.99981013, 0.10172323, 6.5494682e-4
Q1, Q2 = 0.43450415, 0.01263921
LIMIT = 5.0
TANH_ERROR = 5e-5

Cell = Callable[..., tuple[Tensor, ...]]
"""(gates of x, gates of h, bias, bias_n or None, *states of the time step before) -> states after; h is the first."""


def fma32(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """float32 a * b + c, rounded once: through float64, where the product is exact and the sum is rounded to odd."""
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    bits = total.view(torch.int64)
    even = (bits & 1 == 0) & (error != 0) & torch.isfinite(error)
    away = (error > 0) == (total > 0)
    bits = torch.where(even, torch.where(away, bits + 1, bits - 1), bits)
    return bits.view(torch.float64).float()


def tanh_quotient(t: Tensor) -> tuple[Tensor, Tensor]:
    """(num, den) of the tanh above."""
    v = t.clamp(-LIMIT, LIMIT)
    z = v * v
    p0, p1, p2, q1, q2 = (torch.full_like(z, value) for value in (P0, P1, P2, Q1, Q2))
    num = v * fma32(fma32(p2, z, p1), z, p0)
    return num, fma32(fma32(q2, z, q1), z, torch.ones_like(z))


def quantized_lstm_cell(
    x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor, old_c: Tensor
) -> tuple[Tensor, Tensor]:
    """c = f c + i g over one denominator, h = o tanh(c) over another."""
    quotients = [tanh_quotient(t) for t in ((x + h) + bias).chunk(4, -1)]
    (_, den_i), (_, den_f), (num_g, den_g), (_, den_o) = quotients
    i, f, o = (den + num for num, den in (quotients[0], quotients[1], quotients[3]))  # twice the sigmoid, times den
    den_ig = den_i * den_g
    top, bottom = fma32(f * old_c, den_ig, (i * num_g) * den_f), den_f * den_ig
    c = top / (bottom + bottom)
    num_c, den_c = tanh_quotient(c)
    bottom = den_o * den_c
    return (o * num_c) / (bottom + bottom), c


def quantized_gru_cell(x: Tensor, h: Tensor, bias: Tensor, bias_n: Tensor, old_h: Tensor) -> tuple[Tensor]:
    """h = (1 - z) n + z h over one denominator."""
    (x_r, x_z, x_n), (h_r, h_z, h_n), (b_r, b_z, b_n) = x.chunk(3, -1), h.chunk(3, -1), bias.chunk(3, -1)
    (num_r, den_r), (num_z, den_z) = tanh_quotient((x_r + h_r) + b_r), tanh_quotient((x_z + h_z) + b_z)
    r = (den_r + num_r) / (den_r + den_r)
    num_n, den_n = tanh_quotient((x_n + b_n) + r * (h_n + bias_n))
    top = fma32((den_z + num_z) * old_h, den_n, num_n * (den_z - num_z))
    return (top / ((den_z + den_z) * den_n),)


def lstm_cell(x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor, old_c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (x + h + bias).chunk(4, -1)
    c = torch.sigmoid(f) * old_c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(x: Tensor, h: Tensor, bias: Tensor, bias_n: Tensor, old_h: Tensor) -> tuple[Tensor]:
    (x_r, x_z, x_n), (h_r, h_z, h_n), (b_r, b_z, b_n) = x.chunk(3, -1), h.chunk(3, -1), bias.chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r + b_r), torch.sigmoid(x_z + h_z + b_z)
    n = torch.tanh(x_n + b_n + r * (h_n + bias_n))
    return ((1 - z) * n + z * old_h,)


def quantized_rnn_cell(x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor) -> tuple[Tensor]:
    """h = tanh of the sum, one quotient."""
    num, den = tanh_quotient((x + h) + bias)
    return (num / den,)


def rnn_cell(function: Callable[[Tensor], Tensor]) -> Cell:
    """h = function of the sum."""

    def cell(x: Tensor, h: Tensor, bias: Tensor, bias_n: None, old_h: Tensor) -> tuple[Tensor]:
        return (function(x + h + bias),)

    return cell


def _product(low: dict, name: str, k: int) -> Callable[[Tensor], Tensor]:
    """acc of rows [..., K] of whole numbers with a matrix, as float32; the weight is converted once."""
    if low[name].dtype == torch.int8:
        weight = low[name].double().T.contiguous()  # 53 bits hold every partial sum
        return lambda q: (q.double() @ weight).float()
    groups = low[f"{name}_group_scale"].T.contiguous().unbind(0)
    params = int4.unpack(low[name], k).double().T.split(low["group_size"])

    def grouped(q: Tensor) -> Tensor:
        acc = torch.zeros(*q.shape[:-1], groups[0].shape[0], device=q.device)
        for part, weight, scale in zip(q.double().split(low["group_size"], -1), params, groups):
            acc = fma32((part @ weight).float(), scale, acc)
        return acc

    return grouped


def quantized_run(
    low: dict, cell: Cell, x: Tensor, states: list[Tensor], counts: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """x [T, N, K] int8, or float32 to be quantized by row; states, each [layers * directions, N, H]. counts [N]: how many time
    steps of each stream there are, where they are fewer.

    Returns y [T, N, D * H] float32 and the states after. Streams with a NaN or an infinity are NaN in all of them.
    """
    geometry = Geometry(**{name: low[name] for name in Geometry.__dataclass_fields__})
    bad = _not_finite(x, states, counts)
    row_scale = None
    if low["dynamic"]:
        q, row_scale = dynamic(x.reshape(-1, x.shape[2]))
        x, row_scale = q.reshape(x.shape), row_scale.reshape(*x.shape[:2], 1)
    elif low["x_inv_scale"]:
        x = to_int8(x.nan_to_num(), low["x_inv_scale"], low["x_zero_point"])
    if low["weight_ih_l0"].dtype == torch.int8:  # int4: in the bias
        x = x.int() - low["x_zero_point"]
    after: list[list[Tensor]] = [[] for _ in states]
    y = torch.empty(0)
    for layer in range(geometry.layers):
        outputs = []
        for direction in range(geometry.directions):
            index = layer * geometry.directions + direction
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            multiplier = low[f"weight_ih{suffix}_multiplier"]
            if layer == 0 and row_scale is not None:
                multiplier = multiplier * row_scale
            gates = _product(low, f"weight_ih{suffix}", x.shape[2])(x) * multiplier
            recurrent, h_multiplier = (
                _product(low, f"weight_hh{suffix}", geometry.hidden),
                low[f"weight_hh{suffix}_multiplier"],
            )
            bias, bias_n = low[f"bias{suffix}"], low.get(f"bias_n{suffix}")
            now = tuple(state[index] for state in states)
            found: list[Tensor] = [now[0]] * geometry.time
            for t in reversed(range(geometry.time)) if direction else range(geometry.time):
                h = recurrent(to_int8(now[0].nan_to_num(), low["h_inv_scale"], 0)) * h_multiplier
                now = going(t, counts, cell(gates[t], h, bias, bias_n, *now), now)
                found[t] = now[0]
            outputs.append(until(counts, torch.stack(found)))
            for kept, state in zip(after, now):
                kept.append(state)
        y = torch.cat(outputs, -1)
        x = to_int8(y.nan_to_num(), low["h_inv_scale"], 0)
    return _nan(bad, counts, y, [torch.stack(kept) for kept in after])


def float_run(
    low: dict, cell: Cell, x: Tensor, states: list[Tensor], counts: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The same in float64, with float32 weights."""
    geometry = Geometry(**{name: low[name] for name in Geometry.__dataclass_fields__})
    x, states = x.double(), [state.double() for state in states]
    after: list[list[Tensor]] = [[] for _ in states]
    for layer in range(geometry.layers):
        outputs = []
        for direction in range(geometry.directions):
            index = layer * geometry.directions + direction
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            names = (f"weight_ih{suffix}", f"weight_hh{suffix}", f"bias{suffix}", f"bias_n{suffix}")
            weight_x, weight_h, bias, bias_n = (low[n].double() if n in low else None for n in names)
            now = tuple(state[index] for state in states)
            found: list[Tensor] = [now[0]] * geometry.time
            for t in reversed(range(geometry.time)) if direction else range(geometry.time):
                now = going(t, counts, cell(x[t] @ weight_x.T, now[0] @ weight_h.T, bias, bias_n, *now), now)
                found[t] = now[0]
            outputs.append(until(counts, torch.stack(found)))
            for kept, state in zip(after, now):
                kept.append(state)
        x = torch.cat(outputs, -1)
    return x, [torch.stack(kept) for kept in after]


def compute(stage: Stage, low: dict, cells: tuple[Cell, Cell | None], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Outputs of a stage. cells: for float32 weights, and for quantized ones where the operator takes them."""
    geometry = Geometry.of(stage.attrs)
    x = geometry.time_steps(inputs[0])
    counts, given = counts_of(stage, *inputs)
    states = [geometry.streams(state) for state in given]
    if not states:
        zero = torch.zeros(geometry.layers * geometry.directions, x.shape[1], geometry.hidden, device=x.device)
        states = [zero] * (2 if stage.op == "lstm" else 1)
    integer = quantized(stage)
    cell = cells[integer]
    if cell is None:
        raise UnsupportedProblem(stage.op, "quantized weights", "float32 ones", "Keep the layer float32.")
    y, after = (quantized_run if integer else float_run)(low, cell, x, states, counts)
    if not integer and sparse(stage):
        y, after = nonfinite(x, states, y, after, counts)
    return outputs_of(stage, low, y, after)


def nonfinite(
    x: Tensor, states: list[Tensor], y: Tensor, after: list[Tensor], counts: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """y and the states after, NaN in the streams of which x or a state is not finite."""
    return _nan(_not_finite(x, states, counts), counts, y, after)


def _not_finite(x: Tensor, states: list[Tensor], counts: Tensor | None) -> Tensor:
    """By stream: whether x, as far as it is read, or a state holds a NaN or an infinity."""
    bad = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    if x.is_floating_point():
        bad |= (~torch.isfinite(x).all(-1) & there(counts, x)).any(0)
    for state in states:
        bad |= ~torch.isfinite(state).all(-1).all(0)
    return bad


def _nan(bad: Tensor, counts: Tensor | None, y: Tensor, after: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """y, as far as it was computed, and the states after: NaN in bad streams."""
    nan = torch.full((), float("nan"))
    own = (bad & there(counts, y))[..., None]
    return torch.where(own, nan, y), [torch.where(bad[:, None], nan, part) for part in after]


def outputs_of(stage: Stage, low: dict, y: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
    """y [T, N, D * H] and the states after as the values of the stage."""
    geometry = Geometry.of(stage.attrs)
    value = stage.outputs[0]
    y = geometry.rows(y[-1:] if geometry.last_only else y, value.shape)
    y = to_int8(y.nan_to_num(), low["y_inv_scale"], low["y_zero_point"]) if value.dtype == "int8" else y.float()
    after = zip(states, stage.outputs[1:])
    return (y, *(geometry.states(state, v.shape).float() for state, v in after))
