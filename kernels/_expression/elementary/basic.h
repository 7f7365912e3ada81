// Truth values, signs, what is rounded or left of a division, and how functions of <cmath> serve where vectors end.
#pragma once

#include <cmath>

#include "_common/activations/functions.h"

namespace rta {
namespace expression {

// The coefficients of z^n, ..., z, 1.
template <class S, class... Lower>
static inline typename S::F polynomial(typename S::F z, float highest, Lower... lower) {
  typename S::F p = S::set(highest);
  ((p = S::fma(p, z, S::set(lower))), ...);
  return p;
}

template <class S, float (*f)(float)>
static inline typename S::F by_lane(typename S::F a) {
  float lanes[S::kLanes];
  S::store(lanes, a);
  for (float& v : lanes) v = f(v);
  return S::load(lanes);
}

template <class S, float (*f)(float, float)>
static inline typename S::F by_lanes(typename S::F a, typename S::F b) {
  float x[S::kLanes], y[S::kLanes];
  S::store(x, a);
  S::store(y, b);
  for (int i = 0; i < S::kLanes; ++i) x[i] = f(x[i], y[i]);
  return S::load(x);
}

// What is left of a by whole multiples of b, with the sign of a. a - n b is exact where n is the quotient rounded, and
// so is one b more or less. Where one of the quotients is too large for that, or no number, all lanes go by way of
// <cmath>.
template <class S>
static inline typename S::F fmod(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F zero = S::set(0.0f), size = S::abs(b), quotient = S::div(a, b);
  if (!(S::all(S::less(S::abs(quotient), S::set(4194304.0f))) && S::all(S::less(size, S::set(__builtin_inff())))))
    return by_lanes<S, std::fmod>(a, b);
  const F r = S::fma(S::sub(zero, S::round(quotient)), b, a);
  const F below = S::where_less(zero, r, S::sub(r, size), r), above = S::where_less(r, zero, S::add(r, size), r);
  return S::copy_sign(S::abs(S::where_less(a, zero, below, above)), a);
}

// With the sign of the divisor, as Python has it.
template <class S>
static inline typename S::F remainder(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F zero = S::set(0.0f), r = fmod<S>(a, b), turned = S::add(r, b);
  return S::where_less(b, zero, S::where_less(zero, r, turned, r), S::where_less(r, zero, turned, r));
}

template <class S>
static inline typename S::F truth(typename S::F a) {
  return S::select(S::equal(a, S::set(0.0f)), S::set(0.0f), S::set(1.0f));
}

template <class S>
static inline typename S::F sign(typename S::F a) {
  const typename S::F zero = S::set(0.0f);
  return S::where_less(zero, a, S::set(1.0f), S::where_less(a, zero, S::set(-1.0f), zero));
}

// m sqrt(1 + (n / m)^2), m the larger: no square that overflows.
template <class S>
static inline typename S::F hypot(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F zero = S::set(0.0f), one = S::set(1.0f), infinity = S::set(__builtin_inff());
  a = S::abs(a);
  b = S::abs(b);
  const F m = S::max(a, b), r = S::div(S::min(a, b), m);
  const F y = S::mul(m, S::sqrt(S::fma(r, r, one)));
  const F finite =
      S::select(S::equal(m, zero), S::add(a, b), S::select(S::equal(a, a), S::select(S::equal(b, b), y, b), a));
  return S::select(S::equal(a, infinity), infinity, S::select(S::equal(b, infinity), infinity, finite));
}

// Rounded to even, and one less where that is more than a; the sign of a zero stays.
template <class S>
static inline typename S::F floor(typename S::F a) {
  const typename S::F r = S::round(a);
  return S::where_less(a, r, S::sub(r, S::set(1.0f)), r);
}

}  // namespace expression
}  // namespace rta
