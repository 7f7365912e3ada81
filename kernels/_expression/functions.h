// What functions.def is made of, over the vectors S: fixed sequences of operations, the same bits on every instruction
// set. Those of <cmath>, a lane at a time, are for functions that no network spends its time in.
#pragma once

#include <cmath>

#include "_common/activations/functions.h"

namespace rta {
namespace expression {

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

// 2^n for -252 <= n <= 252, in two factors: each is a float32 of its own, denormal results and the last binade come out
// right.
template <class S>
static inline typename S::F times_power_of_two(typename S::F p, typename S::I n) {
  const typename S::I half = S::template shift_right<1>(n), rest = S::sub_int(n, half), bias = S::set_int(127);
  p = S::mul(p, S::as_float(S::template shift_left<23>(S::add_int(half, bias))));
  return S::mul(p, S::as_float(S::template shift_left<23>(S::add_int(rest, bias))));
}

// exp(x) = 2^n exp(r), r = x - n ln 2 in two parts, |r| <= 0.347; the Taylor polynomial of degree 7 (relative error
// 5e-9). 0 below -104, infinite above 88.73, a NaN stays one.
template <class S>
static inline typename S::F exp(typename S::F x) {
  using F = typename S::F;
  const F bias = S::set(12582912.0f);  // adding it rounds to a whole number, in the last bits
  x = S::max(S::set(-105.0f), S::min(S::set(89.0f), x));
  const F shifted = S::fma(x, S::set(1.44269504f), bias), n = S::sub(shifted, bias);
  const F r = S::fma(n, S::set(2.12194440e-4f), S::fma(n, S::set(-0.693359375f), x));
  F p = S::set(1.0f / 5040);
  p = S::fma(p, r, S::set(1.0f / 720));
  p = S::fma(p, r, S::set(1.0f / 120));
  p = S::fma(p, r, S::set(1.0f / 24));
  p = S::fma(p, r, S::set(1.0f / 6));
  p = S::fma(p, r, S::set(0.5f));
  p = S::fma(p, r, S::set(1.0f));
  p = S::fma(p, r, S::set(1.0f));
  return times_power_of_two<S>(p, S::sub_int(S::as_int(shifted), S::set_int(0x4B400000)));
}

// log(x) = n ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), sqrt(1/2) <= m < sqrt(2): |s| < 0.172, and five terms of the
// series of atanh leave 3e-10. -infinity at 0, NaN below.
template <class S>
static inline typename S::F log(typename S::F x) {
  using F = typename S::F;
  const F zero = S::set(0.0f), one = S::set(1.0f), infinity = S::set(__builtin_inff());
  const auto tiny = S::less(x, S::set(1.17549435e-38f));  // denormals have no exponent of their own
  const F scaled = S::select(tiny, S::mul(x, S::set(8388608.0f)), x);
  const typename S::I bits = S::sub_int(S::as_int(scaled), S::set_int(0x3F3504F3));
  const F n = S::sub(S::to_float(S::template shift_right<23>(bits)), S::select(tiny, S::set(23.0f), zero));
  const F m = S::as_float(S::add_int(S::and_int(bits, S::set_int(0x007FFFFF)), S::set_int(0x3F3504F3)));
  const F f = S::sub(m, one), s = S::div(f, S::add(m, one)), z = S::mul(s, s);
  F p = S::set(2.0f / 9);
  p = S::fma(p, z, S::set(2.0f / 7));
  p = S::fma(p, z, S::set(2.0f / 5));
  p = S::fma(p, z, S::set(2.0f / 3));
  // 2 s + s z p, where 2 s = f - s f: what the quotient rounds off is small beside f.
  const F tail = S::mul(s, S::sub(S::mul(z, p), f));
  const F low = S::fma(n, S::set(-2.12194440e-4f), tail);
  const F y = S::fma(n, S::set(0.693359375f), S::add(f, low));
  const F usual = S::select(S::equal(x, infinity), infinity, S::select(S::equal(x, x), y, x));
  return S::select(S::less(x, zero), S::set(__builtin_nanf("")),
                   S::select(S::equal(x, zero), S::set(-__builtin_inff()), usual));
}

// log(u) x / (u - 1), u = 1 + x as it rounds: the error of the sum cancels. x itself where u is 1.
template <class S>
static inline typename S::F log1p(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), u = S::add(one, x), d = S::sub(u, one);
  const F y = S::mul(log<S>(u), S::div(x, d));
  const F usual = S::select(S::equal(d, S::set(0.0f)), x, y);
  return S::select(S::less(S::set(1e30f), x), log<S>(u), S::select(S::equal(u, S::set(0.0f)), log<S>(u), usual));
}

// (u - 1) x / log(u), u = exp(x) as it rounds; x where u is 1, and u - 1 where that is far from 0.
template <class S>
static inline typename S::F expm1(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), u = exp<S>(x), d = S::sub(u, one);
  const F y = S::mul(d, S::div(x, log<S>(u)));
  const F near = S::select(S::equal(d, S::set(0.0f)), x, y);
  return S::select(S::less(S::set(0.5f), S::abs(x)), d, near);
}

// sin and cos: x - n pi/2 in three parts, then the Taylor polynomial of the quadrant, |r| <= 0.786. Beyond 8192, where
// the parts run out, the function of <cmath>.
template <class S, bool kCos>
static inline typename S::F wave(typename S::F x) {
  using F = typename S::F;
  using I = typename S::I;
  const F size = S::abs(x);
  if (!S::all(S::less(size, S::set(8192.0f)))) return kCos ? by_lane<S, std::cos>(x) : by_lane<S, std::sin>(x);
  const F bias = S::set(12582912.0f), shifted = S::fma(x, S::set(0.636619772f), bias), n = S::sub(shifted, bias);
  F r = S::fma(n, S::set(-1.5703125f), x);
  r = S::fma(n, S::set(-4.83751297e-4f), r);
  r = S::fma(n, S::set(-7.54979013e-8f), r);
  const F z = S::mul(r, r);
  F s = S::set(1.0f / 362880);
  s = S::fma(s, z, S::set(-1.0f / 5040));
  s = S::fma(s, z, S::set(1.0f / 120));
  s = S::fma(s, z, S::set(-1.0f / 6));
  s = S::fma(S::mul(s, z), r, r);
  F c = S::set(-1.0f / 3628800);
  c = S::fma(c, z, S::set(1.0f / 40320));
  c = S::fma(c, z, S::set(-1.0f / 720));
  c = S::fma(c, z, S::set(1.0f / 24));
  c = S::fma(c, z, S::set(-0.5f));
  c = S::fma(c, z, S::set(1.0f));
  const I quadrant = S::add_int(S::as_int(shifted), S::set_int(kCos ? 1 : 0));
  const auto odd = S::equal(S::to_float(S::and_int(quadrant, S::set_int(1))), S::set(1.0f));
  const F sign = S::as_float(S::template shift_left<30>(S::and_int(quadrant, S::set_int(2))));
  const F y = S::select(odd, c, s);
  return S::as_float(S::add_int(S::as_int(y), S::as_int(sign)));  // the sign bit turned: an addition that wraps
}
template <class S>
static inline typename S::F sin(typename S::F x) {
  return wave<S, false>(x);
}
template <class S>
static inline typename S::F cos(typename S::F x) {
  return wave<S, true>(x);
}

// x P(x^2) / Q(x^2), the least relative error (2e-9) of such a quotient on |x| <= 3.92, where erf is 1. From there on
// the quotient grows; at 4.25 it is above 1 by three units in the last place, so that what is beyond is exactly 1.
template <class S>
static inline typename S::F erf(typename S::F x) {
  using F = typename S::F;
  x = S::max(S::set(-4.25f), S::min(S::set(4.25f), x));
  const F z = S::mul(x, x);
  F p = S::set(-1.27999757e-8f), q = S::set(6.23995081e-5f);
  p = S::fma(p, z, S::set(4.60926914e-6f));
  q = S::fma(q, z, S::set(1.30152677e-3f));
  p = S::fma(p, z, S::set(3.76760208e-4f));
  q = S::fma(q, z, S::set(1.54300547e-2f));
  p = S::fma(p, z, S::set(3.83862369e-3f));
  q = S::fma(q, z, S::set(0.113873761f));
  p = S::fma(p, z, S::set(5.42440056e-2f));
  q = S::fma(q, z, S::set(0.497405227f));
  p = S::fma(p, z, S::set(0.185135224f));
  q = S::fma(q, z, S::set(1.0f));
  p = S::fma(p, z, S::set(1.12837917f));
  return S::max(S::set(-1.0f), S::min(S::set(1.0f), S::div(S::mul(x, p), q)));
}

}  // namespace expression
}  // namespace rta
