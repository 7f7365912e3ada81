// The quantized LSTM and GRU cells of recurrent_cells.h and the activations of activation.h, operation by operation, so
// with their bits.
#pragma once

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

// exp(x) for x <= 0.
static __device__ __forceinline__ float exp_negative(float x) {
  const float bias = 12582912.0f + 127.0f;
  x = -88.0f > x ? -88.0f : x;
  const float shifted = fma_rn(x, 1.44269504f, bias);
  const float r = fma_rn(add_rn(shifted, -bias), -0.693147182f, x);
  float p = 1.38436e-3f;
  p = fma_rn(p, r, 8.37418e-3f);
  p = fma_rn(p, r, 4.1668e-2f);
  p = fma_rn(p, r, 0.16666431f);
  p = fma_rn(p, r, 0.49999994f);
  p = fma_rn(p, r, 1.0f);
  p = fma_rn(p, r, 1.0f);
  return mul_rn(p, float_of(bits_of(shifted) << 23));
}

static __device__ __forceinline__ float sigmoid(float t) {
  const float e = exp_negative(float_of(bits_of(t) | 0x80000000u));
  return div_rn(t < 0.0f ? e : 1.0f, add_rn(1.0f, e));
}

static __device__ __forceinline__ float tanh_of(float t) {
  t = t > 7.9f ? 7.9f : t;
  t = t < -7.9f ? -7.9f : t;
  const float z = mul_rn(t, t);
  float p = 1.54322493e-8f, q = 8.60050079e-7f;
  p = fma_rn(p, z, 2.20262464e-5f);
  q = fma_rn(q, z, 3.42394691e-4f);
  p = fma_rn(p, z, 3.579173e-3f);
  q = fma_rn(q, z, 2.61929259e-2f);
  p = fma_rn(p, z, 0.134507731f);
  q = fma_rn(q, z, 0.467840999f);
  p = fma_rn(p, z, 1.0f);
  q = fma_rn(q, z, 1.0f);
  return div_rn(mul_rn(p, t), q);
}

static __device__ __forceinline__ float gelu(float t) {
  const float x = mul_rn(float_of(bits_of(t) & 0x7fffffffu), 0.70710678f);
  const float k = div_rn(1.0f, fma_rn(x, 0.3275911f, 1.0f));
  float p = 1.061405429f;
  p = fma_rn(p, k, -1.453152027f);
  p = fma_rn(p, k, 1.421413741f);
  p = fma_rn(p, k, -0.284496736f);
  p = fma_rn(p, k, 0.254829592f);
  const float e = exp_negative(mul_rn(mul_rn(x, x), -1.0f));
  const float tail = mul_rn(mul_rn(mul_rn(p, k), e), 0.5f);
  return mul_rn(t, t < 0.0f ? tail : add_rn(1.0f, -tail));
}

// kind: the place of its name in activations.ACTIVATIONS, as cuda_recurrent_form.py passes it.
template <int kind>
static __device__ __forceinline__ float activate(float t, float parameter) {
  if constexpr (kind == 0) return t;
  if constexpr (kind == 1) return t > 0.0f ? t : 0.0f;
  if constexpr (kind == 2) return t > 0.0f ? t : mul_rn(t, parameter);
  if constexpr (kind == 3)
    return fma_rn(parameter, add_rn(exp_negative(t < 0.0f ? t : 0.0f), -1.0f), t > 0.0f ? t : 0.0f);
  if constexpr (kind == 4) return gelu(t);
  if constexpr (kind == 5) {
    const float inner = mul_rn(fma_rn(mul_rn(mul_rn(t, t), t), 0.044715f, t), 0.79788456f), half = mul_rn(t, 0.5f);
    return fma_rn(half, tanh_of(inner), half);
  }
  if constexpr (kind == 6) return mul_rn(t, sigmoid(t));
  if constexpr (kind == 7) return tanh_of(t);
  if constexpr (kind == 8) return sigmoid(t);
}
