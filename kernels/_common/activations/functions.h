// The functions that rows of table.def are made of, over the vectors S: the same sequence of operations, and so the
// same bits, on every instruction set, and in CUDA C++, where S is one number.
#pragma once

#ifdef __CUDACC__
#define RTA_FUNCTION static __device__ __forceinline__
#else
#define RTA_FUNCTION static inline
#endif

namespace rta {

// exp(x) for x <= 0, and up to 80; 0 below -87.7. x = n ln 2 + r with |r| <= 0.347, where adding 1.5 * 2^23 rounds x /
// ln 2 to n in the last bits, beside the bias of an exponent; exp(r) by the least relative error of its degree (2e-9),
// at most 2 units in the last place as computed. A NaN stays a NaN.
template <class S>
RTA_FUNCTION typename S::F exp_negative(typename S::F x) {
  using F = typename S::F;
  const F bias = S::set(12582912.0f + 127.0f);
  x = S::max(S::set(-88.0f), x);
  const F shifted = S::fma(x, S::set(1.44269504f), bias);
  const F r = S::fma(S::sub(shifted, bias), S::set(-0.693147182f), x);
  F p = S::set(1.38436e-3f);
  p = S::fma(p, r, S::set(8.37418e-3f));
  p = S::fma(p, r, S::set(4.1668e-2f));
  p = S::fma(p, r, S::set(0.16666431f));
  p = S::fma(p, r, S::set(0.49999994f));
  p = S::fma(p, r, S::set(1.0f));
  p = S::fma(p, r, S::set(1.0f));
  return S::mul(p, S::as_float(S::template shift_left<23>(S::as_int(shifted))));
}

// exp(x) - 1 for x <= 0 by the same parts: 2^n (exp(r) - 1) + (2^n - 1), so that what is near 0 keeps its digits.
template <class S>
RTA_FUNCTION typename S::F expm1_negative(typename S::F x) {
  using F = typename S::F;
  const F bias = S::set(12582912.0f + 127.0f), one = S::set(1.0f);
  x = S::max(S::set(-88.0f), x);
  const F shifted = S::fma(x, S::set(1.44269504f), bias);
  const F r = S::fma(S::sub(shifted, bias), S::set(-0.693147182f), x);
  F p = S::set(1.38825004e-3f);
  p = S::fma(p, r, S::set(8.36663414e-3f));
  p = S::fma(p, r, S::set(4.16672044e-2f));
  p = S::fma(p, r, S::set(0.166665435f));
  p = S::fma(p, r, S::set(0.49999997f));
  p = S::fma(S::mul(r, r), p, r);
  const F scale = S::as_float(S::template shift_left<23>(S::as_int(shifted)));
  return S::fma(scale, p, S::sub(scale, one));
}

template <class S>
RTA_FUNCTION typename S::F sigmoid(typename S::F t) {
  using F = typename S::F;
  const F e = exp_negative<S>(S::copy_sign(t, S::set(-1.0f)));
  return S::div(S::where_less(t, S::set(0.0f), e, S::set(1.0f)), S::add(S::set(1.0f), e));
}

// t P(t^2) / Q(t^2), the least relative error (6e-9) of such a quotient on |t| <= 7.9; at most 3 units in the last
// place as computed. Its bound is the last t at which it is 1 as computed before it passes 1: what is beyond is 1
// itself.
template <class S>
RTA_FUNCTION typename S::F tanh(typename S::F t) {
  using F = typename S::F;
  t = S::max(S::set(-8.05435276f), S::min(S::set(8.05435276f), t));
  const F z = S::mul(t, t);
  F p = S::set(1.54322493e-8f), q = S::set(8.60050079e-7f);
  p = S::fma(p, z, S::set(2.20262464e-5f));
  q = S::fma(q, z, S::set(3.42394691e-4f));
  p = S::fma(p, z, S::set(3.579173e-3f));
  q = S::fma(q, z, S::set(2.61929259e-2f));
  p = S::fma(p, z, S::set(0.134507731f));
  q = S::fma(q, z, S::set(0.467840999f));
  p = S::fma(p, z, S::set(1.0f));
  q = S::fma(q, z, S::set(1.0f));
  return S::div(S::mul(p, t), q);
}

// t/2 (1 + erf(t / sqrt 2)), erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
template <class S>
RTA_FUNCTION typename S::F gelu(typename S::F t) {
  using F = typename S::F;
  const F x = S::mul(S::abs(t), S::set(0.70710678f));
  const F k = S::div(S::set(1.0f), S::fma(x, S::set(0.3275911f), S::set(1.0f)));
  F p = S::set(1.061405429f);
  p = S::fma(p, k, S::set(-1.453152027f));
  p = S::fma(p, k, S::set(1.421413741f));
  p = S::fma(p, k, S::set(-0.284496736f));
  p = S::fma(p, k, S::set(0.254829592f));
  const F e = exp_negative<S>(S::mul(S::mul(x, x), S::set(-1.0f)));
  const F tail = S::mul(S::mul(S::mul(p, k), e), S::set(0.5f));  // (1 - erf x) / 2
  return S::mul(t, S::where_less(t, S::set(0.0f), tail, S::sub(S::set(1.0f), tail)));
}

template <class S>
RTA_FUNCTION typename S::F hard_sigmoid(typename S::F t) {
  return S::min(S::set(1.0f), S::max(S::set(0.0f), S::fma(t, S::set(0.16666667f), S::set(0.5f))));
}

// max(t, 0) + log1p(e), e = exp(-|t|): log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, eight terms of the series
// (3e-10).
template <class S>
RTA_FUNCTION typename S::F softplus(typename S::F t) {
  using F = typename S::F;
  const F e = exp_negative<S>(S::copy_sign(t, S::set(-1.0f)));
  const F s = S::div(e, S::add(S::set(2.0f), e)), z = S::mul(s, s);
  F p = S::set(2.0f / 15);
  p = S::fma(p, z, S::set(2.0f / 13));
  p = S::fma(p, z, S::set(2.0f / 11));
  p = S::fma(p, z, S::set(2.0f / 9));
  p = S::fma(p, z, S::set(2.0f / 7));
  p = S::fma(p, z, S::set(2.0f / 5));
  p = S::fma(p, z, S::set(2.0f / 3));
  p = S::fma(p, z, S::set(2.0f));
  return S::fma(p, s, S::max(S::set(0.0f), t));
}

// t tanh(log(1 + u)) = t w / (w + 2), w = u (u + 2), u = exp(t); from 20 on it is t.
template <class S>
RTA_FUNCTION typename S::F mish(typename S::F t) {
  using F = typename S::F;
  const F u = exp_negative<S>(S::min(S::set(20.0f), t)), w = S::mul(u, S::add(u, S::set(2.0f)));
  return S::mul(t, S::div(w, S::add(w, S::set(2.0f))));
}

}  // namespace rta
