// asin, acos, atan and atan2.
#pragma once

#include "_expression/elementary/basic.h"

namespace rta {
namespace expression {

// asin(x) = x + x^3 P(x^2) up to 1/2 (least relative error, 3e-10); beyond it the square root of (1 - |x|) / 2 takes
// the place of x, and the result is pi/2 less twice that.
template <class S>
struct ArcSine {
  typename S::F size, part;  // |x|, and the arc of the smaller of the two

  explicit inline __attribute__((always_inline)) ArcSine(typename S::F x) {
    using F = typename S::F;
    size = S::abs(x);
    const F half = S::set(0.5f), rest = S::fma(size, S::set(-0.5f), half);
    const F z = S::where_less(half, size, rest, S::mul(size, size));
    const F t = S::where_less(half, size, S::sqrt(rest), size);
    const F p =
        polynomial<S>(z, 3.75164784e-2f, 1.44385863e-2f, 3.18077244e-2f, 4.45169546e-2f, 7.50050396e-2f, 0.166666597f);
    part = S::fma(S::mul(z, p), t, t);
  }
};

template <class S>
static inline typename S::F asin(typename S::F x) {
  using F = typename S::F;
  const ArcSine<S> arc(x);
  const F far = S::add(S::fma(arc.part, S::set(-2.0f), S::set(1.57079637f)), S::set(-4.37113900e-8f));
  return S::copy_sign(S::where_less(S::set(0.5f), arc.size, far, arc.part), x);
}

// pi/2 - asin(x) up to 1/2, and twice the arc of the root beyond it, or what that leaves of pi.
template <class S>
static inline typename S::F acos(typename S::F x) {
  using F = typename S::F;
  const ArcSine<S> arc(x);
  const F zero = S::set(0.0f), twice = S::add(arc.part, arc.part);
  const F near = S::add(S::sub(S::set(1.57079637f), S::copy_sign(arc.part, x)), S::set(-4.37113900e-8f));
  const F left = S::add(S::sub(S::set(3.14159274f), twice), S::set(-8.74227800e-8f));
  return S::where_less(S::set(0.5f), arc.size, S::where_less(x, zero, left, twice), near);
}

// The arc of a / b, 0 <= a <= b: t + t^3 P(t^2) for t up to tan(pi/8) (least relative error, 7e-10); beyond it of the
// angle to pi/4, whose tangent is (a - b) / (a + b).
template <class S>
static inline typename S::F arc_of(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F zero = S::set(0.0f), bound = S::mul(b, S::set(0.414213562f));
  const F t = S::div(S::where_less(bound, a, S::sub(a, b), a), S::where_less(bound, a, S::add(a, b), b));
  const F z = S::mul(t, t);
  const F p = polynomial<S>(z, -6.07812554e-2f, 0.105937779f, -0.142435282f, 0.199984714f, -0.333333164f);
  const F low = S::where_less(bound, a, S::set(-2.18556950e-8f), zero);
  return S::add(S::where_less(bound, a, S::set(0.785398185f), zero), S::add(t, S::fma(S::mul(z, p), t, low)));
}

template <class S>
static inline typename S::F atan(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), size = S::abs(x);
  const F arc = arc_of<S>(S::where_less(one, size, one, size), S::where_less(one, size, size, one));
  const F rest = S::add(S::sub(S::set(1.57079637f), arc), S::set(-4.37113900e-8f));
  return S::copy_sign(S::where_less(one, size, rest, arc), x);
}

// The angle of (b, a): of the smaller over the larger, turned to its octant. Both 0 or both infinite are at an angle
// too, as in C. A quarter of each, where a sum would overflow.
template <class S>
static inline typename S::F atan2(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F zero = S::set(0.0f), one = S::set(1.0f);
  const F y = S::abs(a), x = S::abs(b), large = S::max(x, y);
  const F scale = S::where_less(S::set(1e38f), large, S::set(0.25f), one);
  const F alike =
      S::select(S::equal(x, y), S::select(S::equal(x, zero), zero, one), S::set(-1.0f));  // a / b where known
  const auto known = S::less(S::set(-1.0f), alike);
  const F small_ = S::select(known, alike, S::mul(S::where_less(x, y, x, y), scale));
  const F large_ = S::select(known, one, S::mul(S::where_less(x, y, y, x), scale));
  F arc = arc_of<S>(small_, large_);
  arc = S::where_less(x, y, S::add(S::sub(S::set(1.57079637f), arc), S::set(-4.37113900e-8f)), arc);
  const F turned = S::add(S::sub(S::set(3.14159274f), arc), S::set(-8.74227800e-8f));
  arc = S::where_less(S::copy_sign(one, b), zero, turned, arc);
  const F number = S::select(S::equal(a, a), b, a);  // a NaN of either
  return S::select(S::equal(number, number), S::copy_sign(arc, a), number);
}

}  // namespace expression
}  // namespace rta
