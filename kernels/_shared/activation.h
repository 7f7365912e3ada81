// Activation functions on vectors, the same sequence of operations (and so the same bits) on every instruction set.
// Absolute error at most 8 units in the last place of max(|t|, 1); kernels/_shared/activations.py holds the meaning.
#pragma once

#include "stage.h"

namespace rta {

enum class Activation { kNone, kRelu, kLeakyRelu, kElu, kGelu, kGeluTanh, kSilu, kTanh, kSigmoid };

Activation parse_activation(const char* name);

// exp(x) for x <= 0; 0 below -87.3 (exp there is under 1.2e-38). Range reduction by ln 2 in two parts, then the Taylor
// series to degree 7 on |r| <= 0.347 (its remainder is 5e-9). A NaN stays a NaN.
template <class S>
static inline typename S::F exp_negative(typename S::F x) {
  using F = typename S::F;
  const F low = S::set(-87.3f), whole = x;
  x = S::max(low, x);
  const auto n = S::to_int(S::mul(x, S::set(1.44269504f)));
  const F n_float = S::to_float(n);
  F r = S::fma(n_float, S::set(-0.693359375f), x);
  r = S::fma(n_float, S::set(2.12194440e-4f), r);
  F p = S::set(1.0f / 5040);
  p = S::fma(p, r, S::set(1.0f / 720));
  p = S::fma(p, r, S::set(1.0f / 120));
  p = S::fma(p, r, S::set(1.0f / 24));
  p = S::fma(p, r, S::set(1.0f / 6));
  p = S::fma(p, r, S::set(0.5f));
  p = S::fma(p, r, S::set(1.0f));
  p = S::fma(p, r, S::set(1.0f));
  return S::where_less(whole, low, S::set(0.0f), S::mul(p, S::power_of_two(n)));
}

template <class S>
static inline typename S::F sigmoid(typename S::F t) {
  using F = typename S::F;
  const F e = exp_negative<S>(S::copy_sign(t, S::set(-1.0f)));
  const F s = S::div(S::set(1.0f), S::add(S::set(1.0f), e));
  return S::where_less(t, S::set(0.0f), S::mul(e, s), s);
}

// Odd polynomial below 0.625 (coefficients: Cephes tanhf), (1 - e) / (1 + e) with e = exp(-2|t|) above.
template <class S>
static inline typename S::F tanh(typename S::F t) {
  using F = typename S::F;
  const F a = S::abs(t), z = S::mul(t, t);
  F p = S::set(-5.70498872745e-3f);
  p = S::fma(p, z, S::set(2.06390887954e-2f));
  p = S::fma(p, z, S::set(-5.37397155531e-2f));
  p = S::fma(p, z, S::set(1.33314422036e-1f));
  p = S::fma(p, z, S::set(-3.33332819422e-1f));
  const F small = S::fma(S::mul(p, z), t, t);
  const F e = exp_negative<S>(S::mul(a, S::set(-2.0f)));
  const F large = S::div(S::sub(S::set(1.0f), e), S::add(S::set(1.0f), e));
  return S::where_less(a, S::set(0.625f), small, S::copy_sign(large, t));
}

// t/2 (1 + erf(t / sqrt 2)), erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
template <class S>
static inline typename S::F gelu(typename S::F t) {
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
static inline typename S::F activate(Activation kind, float parameter, typename S::F t) {
  using F = typename S::F;
  const F zero = S::set(0.0f);
  switch (kind) {
    case Activation::kNone: return t;
    case Activation::kRelu: return S::max(zero, t);
    case Activation::kLeakyRelu: return S::where_less(zero, t, t, S::mul(t, S::set(parameter)));
    case Activation::kElu: {
      const F e = S::sub(exp_negative<S>(S::min(zero, t)), S::set(1.0f));
      return S::where_less(zero, t, t, S::mul(e, S::set(parameter)));
    }
    case Activation::kGelu: return gelu<S>(t);
    case Activation::kGeluTanh: {
      const F inner = S::fma(S::mul(S::mul(t, t), t), S::set(0.044715f), t);
      const F h = S::mul(t, S::set(0.5f));
      return S::fma(h, tanh<S>(S::mul(inner, S::set(0.79788456f))), h);
    }
    case Activation::kSilu: return S::mul(t, sigmoid<S>(t));
    case Activation::kTanh: return tanh<S>(t);
    case Activation::kSigmoid: return sigmoid<S>(t);
  }
  return t;
}

// Whole rows of float vectors in place: the transcendental functions are compiled once per instruction set here,
// not into every tile of every kernel.
template <class S>
__attribute__((noinline)) static void activate_in_place(Activation kind, float parameter, float* values, int vectors) {
  for (int i = 0; i < vectors; ++i)
    S::store(values + i * S::kLanes, activate<S>(kind, parameter, S::load(values + i * S::kLanes)));
}

}  // namespace rta
