"""The quantized LSTM, GRU and RNN cells of recurrent_reference.py in Triton, to the bit.

Every product, sum, fma and quotient rounds as there: `fma_rn` once, `tl.div_rn` as IEEE has it (a plain `/` is an
approximate division on a GPU), products that a sum follows through `multiply_rn`, which nothing fuses.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import fma_rn, multiply_rn
from rtaccel.kernels.recurrent import reference as meaning

P0, P1, P2 = tl.constexpr(meaning.P0), tl.constexpr(meaning.P1), tl.constexpr(meaning.P2)
Q1, Q2 = tl.constexpr(meaning.Q1), tl.constexpr(meaning.Q2)
LIMIT = tl.constexpr(meaning.LIMIT)


@triton.jit
def tanh_quotient(t, ASM: tl.constexpr):
    """(num, den) of tanh(t) ~ num / den."""
    v = tl.minimum(tl.maximum(t, -LIMIT), LIMIT)
    z = multiply_rn(v, v, ASM)
    p = fma_rn(tl.full(z.shape, P2, tl.float32), z, tl.full(z.shape, P1, tl.float32), ASM)
    num = multiply_rn(v, fma_rn(p, z, tl.full(z.shape, P0, tl.float32), ASM), ASM)
    q = fma_rn(tl.full(z.shape, Q2, tl.float32), z, tl.full(z.shape, Q1, tl.float32), ASM)
    return num, fma_rn(q, z, tl.full(z.shape, 1.0, tl.float32), ASM)


@triton.jit
def lstm_cell(t_i, t_f, t_g, t_o, c, ASM: tl.constexpr):
    """(h, c) from the four sums and the cell of the time step before: c over one denominator, h over another."""
    num_i, den_i = tanh_quotient(t_i, ASM)
    num_f, den_f = tanh_quotient(t_f, ASM)
    num_g, den_g = tanh_quotient(t_g, ASM)
    num_o, den_o = tanh_quotient(t_o, ASM)
    den_ig = multiply_rn(den_i, den_g, ASM)
    fresh = multiply_rn(multiply_rn(den_i + num_i, num_g, ASM), den_f, ASM)
    top = fma_rn(multiply_rn(den_f + num_f, c, ASM), den_ig, fresh, ASM)
    bottom = multiply_rn(den_f, den_ig, ASM)
    after = tl.div_rn(top, bottom + bottom)
    num_c, den_c = tanh_quotient(after, ASM)
    bottom = multiply_rn(den_o, den_c, ASM)
    return tl.div_rn(multiply_rn(den_o + num_o, num_c, ASM), bottom + bottom), after


@triton.jit
def tanh_cell(t, ASM: tl.constexpr):
    """h of an RNN from its sum."""
    num, den = tanh_quotient(t, ASM)
    return tl.div_rn(num, den)


@triton.jit
def gru_cell(t_r, t_z, x_n, h_n, h, ASM: tl.constexpr):
    """h from the sums of both gates, the two halves of the third (with their biases) and the h of the time step before."""
    num_r, den_r = tanh_quotient(t_r, ASM)
    num_z, den_z = tanh_quotient(t_z, ASM)
    r = tl.div_rn(den_r + num_r, den_r + den_r)
    num_n, den_n = tanh_quotient(x_n + multiply_rn(r, h_n, ASM), ASM)
    kept = multiply_rn(den_z + num_z, h, ASM)
    top = fma_rn(kept, den_n, multiply_rn(num_n, den_z - num_z, ASM), ASM)
    return tl.div_rn(top, multiply_rn(den_z + den_z, den_n, ASM))
