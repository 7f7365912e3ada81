// sin, cos and tan.
#pragma once

#include "_expression/elementary/basic.h"

namespace rta {
namespace expression {

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

// sin / cos = r + r^3 P(r^2), |r| <= 0.786 (least relative error, 2e-9), and -1 over it in every other quadrant. The
// rest needs digits of its own near a pole, so that pi/2 has four parts; all but the last product are exact.
template <class S>
static inline typename S::F tan(typename S::F x) {
  using F = typename S::F;
  if (!S::all(S::less(S::abs(x), S::set(8192.0f)))) return by_lane<S, std::tan>(x);
  const F bias = S::set(12582912.0f), shifted = S::fma(x, S::set(0.636619772f), bias), n = S::sub(shifted, bias);
  F r = S::fma(n, S::set(-1.5703125f), x);
  r = S::fma(n, S::set(-4.83751297e-4f), r);
  r = S::fma(n, S::set(-7.54953362e-8f), r);
  r = S::fma(n, S::set(-2.56334407e-12f), r);
  const F z = S::mul(r, r);
  const F p = polynomial<S>(z, 4.38633887e-3f, 6.96603674e-5f, 1.08510619e-2f, 2.12764759e-2f, 5.40609881e-2f,
                            0.133326545f, 0.333333492f);
  const F t = S::fma(S::mul(z, p), r, r), one = S::set(1.0f);
  const auto odd = S::equal(S::to_float(S::and_int(S::as_int(shifted), S::set_int(1))), one);
  return S::div(S::select(odd, S::set(-1.0f), t), S::select(odd, t, one));
}

}  // namespace expression
}  // namespace rta
