// Activation functions on vectors, the same sequence of operations (and so the same bits) on every instruction set.
// Absolute error at most 8 units in the last place of max(|t|, 1); kernels/_common/activations.py holds the meaning.
#pragma once

#include "_core/stage.h"

namespace rta {

enum class Activation { kNone, kRelu, kLeakyRelu, kElu, kGelu, kGeluTanh, kSilu, kTanh, kSigmoid };

Activation parse_activation(const char* name);

template <Activation kind>
struct Always {
  static constexpr Activation value = kind;
};

// exp(x) for x <= 0; 0 below -87.7. x = n ln 2 + r with |r| <= 0.347, where adding 1.5 * 2^23 rounds x / ln 2 to n in
// the last bits, beside the bias of an exponent; exp(r) by the least relative error of its degree (2e-9), at most 2
// units in the last place as computed. A NaN stays a NaN.
template <class S>
static inline typename S::F exp_negative(typename S::F x) {
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

template <class S>
static inline typename S::F sigmoid(typename S::F t) {
  using F = typename S::F;
  const F e = exp_negative<S>(S::copy_sign(t, S::set(-1.0f)));
  return S::div(S::where_less(t, S::set(0.0f), e, S::set(1.0f)), S::add(S::set(1.0f), e));
}

// t P(t^2) / Q(t^2), the least relative error (6e-9) of such a quotient on |t| <= 7.9, beyond which it stays what it is
// there; at most 3 units in the last place as computed.
template <class S>
static inline typename S::F tanh(typename S::F t) {
  using F = typename S::F;
  t = S::max(S::set(-7.9f), S::min(S::set(7.9f), t));
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
    case Activation::kElu:
      return S::fma(S::set(parameter), S::sub(exp_negative<S>(S::min(zero, t)), S::set(1.0f)), S::max(zero, t));
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
// not into every tile of every kernel, and each in a loop of its own.
template <class S>
__attribute__((noinline)) static void activate_in_place(Activation kind, float parameter, float* values, int vectors) {
  const auto all = [&](auto constant) __attribute__((always_inline)) {
    for (float* at = values; at != values + vectors * S::kLanes; at += S::kLanes)
      S::store(at, activate<S>(constant.value, parameter, S::load(at)));
  };
  switch (kind) {
    case Activation::kNone: return;
    case Activation::kRelu: return all(Always<Activation::kRelu>{});
    case Activation::kLeakyRelu: return all(Always<Activation::kLeakyRelu>{});
    case Activation::kElu: return all(Always<Activation::kElu>{});
    case Activation::kGelu: return all(Always<Activation::kGelu>{});
    case Activation::kGeluTanh: return all(Always<Activation::kGeluTanh>{});
    case Activation::kSilu: return all(Always<Activation::kSilu>{});
    case Activation::kTanh: return all(Always<Activation::kTanh>{});
    case Activation::kSigmoid: return all(Always<Activation::kSigmoid>{});
  }
}

}  // namespace rta
