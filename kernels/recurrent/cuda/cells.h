// The quantized LSTM and GRU cells of recurrent/cells.h, operation by operation, so with their bits.
#pragma once

#include "_persistent/cuda_lane.h"

// tanh(t) ~ num / den.
struct Tanh {
  float num, den;

  __device__ __forceinline__ explicit Tanh(float t) {
    const float v = t > 5.0f ? 5.0f : t < -5.0f ? -5.0f : t, z = mul_rn(v, v);
    num = mul_rn(v, fma_rn(fma_rn(6.5494682e-4f, z, 0.10172323f), z, 0.99981013f));
    den = fma_rn(fma_rn(0.01263921f, z, 0.43450415f), z, 1.0f);
  }
  __device__ __forceinline__ float sum() const { return add_rn(den, num); }
  __device__ __forceinline__ float difference() const { return add_rn(den, -num); }
};

// h; carried is c before and after.
static __device__ __forceinline__ float lstm_cell(const float* t, float& carried) {
  const Tanh i(t[0]), f(t[1]), g(t[2]), o(t[3]);
  const float den_ig = mul_rn(i.den, g.den);
  const float top = fma_rn(mul_rn(f.sum(), carried), den_ig, mul_rn(mul_rn(i.sum(), g.num), f.den));
  const float bottom = mul_rn(f.den, den_ig);
  carried = div_rn(top, add_rn(bottom, bottom));
  const Tanh c(carried);
  const float den = mul_rn(o.den, c.den);
  return div_rn(mul_rn(o.sum(), c.num), add_rn(den, den));
}

// h from the sums of both gates, the halves of the third, and the h of the time step before.
static __device__ __forceinline__ float gru_cell(float t_r, float t_z, float x_n, float h_n, float carried) {
  const Tanh r(t_r), z(t_z);
  const float reset = div_rn(r.sum(), add_rn(r.den, r.den));
  const Tanh n(add_rn(x_n, mul_rn(reset, h_n)));
  const float top = fma_rn(mul_rn(z.sum(), carried), n.den, mul_rn(n.num, z.difference()));
  return div_rn(top, mul_rn(add_rn(z.den, z.den), n.den));
}
