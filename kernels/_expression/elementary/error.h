// erf and erfc.
#pragma once

#include "_expression/elementary/exponential.h"

namespace rta {
namespace expression {

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

// t Q(2 t - 1) exp(-x^2), t = 2 / (2 + |x|) (least relative error of Q, 4e-9), or what that leaves of 2. The square is
// in two parts, and the power of two comes last: results are denormal from 9.2 on.
template <class S>
static inline typename S::F erfc(typename S::F x) {
  using F = typename S::F;
  const F size = S::min(S::set(12.0f), S::abs(x)), two = S::set(2.0f), one = S::set(1.0f), zero = S::set(0.0f);
  const F t = S::div(two, S::add(two, size)), v = S::fma(t, two, S::set(-1.0f));
  const F q = polynomial<S>(v, 3.49287038e-5f, -2.38236717e-5f, -2.96291691e-4f, 4.16349212e-4f, 1.53122051e-3f,
                            -3.23803513e-3f, -1.07528325e-2f, 1.82209034e-2f, 0.139735878f, 0.343580335f, 0.510791361f);
  const F square = S::mul(size, size), low = S::fma(size, size, S::sub(zero, square));
  const PowerOfE<S> e(S::sub(zero, square));
  const F y = times_power_of_two<S>(S::mul(S::mul(e.p, S::sub(one, low)), S::mul(t, q)), e.n);
  return S::where_less(x, zero, S::sub(two, y), y);
}

}  // namespace expression
}  // namespace rta
