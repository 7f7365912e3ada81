// The log of |gamma(x)|.
#pragma once

#include "_expression/elementary/logarithm.h"

namespace rta {
namespace expression {

// Of a >= 0: w P(w) for a = 2 + w, |w| <= 1/2 (least relative error, 3e-10), to which what is smaller comes by one or
// two factors, and what is below 4.5 too; beyond that Stirling's series.
template <class S>
static inline typename S::F lgamma_above_0(typename S::F a) {
  using F = typename S::F;
  const F one = S::set(1.0f), two = S::set(2.0f), half = S::set(0.5f), first = S::set(1.5f), third = S::set(2.5f);
  const F above = S::sub(a, one), below = S::add(a, one);
  // a = 2 + w + whole, and the product of the numbers between.
  const F whole =
      S::where_less(a, half, S::set(-2.0f),
                    S::where_less(a, first, S::set(-1.0f),
                                  S::where_less(a, third, S::set(0.0f), S::where_less(a, S::set(3.5f), one, two))));
  const F product = S::where_less(
      a, half, S::mul(a, below),
      S::where_less(
          a, first, a,
          S::where_less(a, third, one, S::where_less(a, S::set(3.5f), above, S::mul(above, S::sub(a, two))))));
  const F w = S::sub(S::sub(a, whole), two), series = S::set(4.5f);
  const F p = polynomial<S>(w, 1.22364436e-4f, -2.53618608e-4f, 5.01516508e-4f, -1.18595932e-3f, 2.89173261e-3f,
                            -7.38615869e-3f, 2.05807351e-2f, -6.735228e-2f, 0.322467029f, 0.422784328f);
  const F logarithm = log<S>(S::where_less(a, series, product, a));
  const F near = S::fma(w, p, S::where_less(a, first, S::sub(S::set(0.0f), logarithm), logarithm));
  const F over = S::div(one, a), z = S::mul(over, over);
  const F rest = S::fma(polynomial<S>(z, 7.38773437e-4f, -2.77610822e-3f, 8.33333209e-2f), over, S::set(0.418938533f));
  const F far = S::fma(S::sub(a, half), S::sub(logarithm, one), rest);
  return S::where_less(a, series, near, far);
}

// Below 0 by reflection: log(pi / |x sin(pi x)|) - lgamma(-x), infinite at whole numbers.
template <class S>
static inline typename S::F lgamma(typename S::F x) {
  using F = typename S::F;
  const F zero = S::set(0.0f), infinity = S::set(__builtin_inff()), a = S::abs(x), above = lgamma_above_0<S>(a);
  if (S::all(S::less(zero, x))) return above;
  const F r = S::sub(a, S::round(a)), z = S::mul(r, r);
  const F p = polynomial<S>(z, 7.75603876e-2f, -0.598242104f, 2.55006981f, -5.16770983f, 3.14159274f);
  const F sine = S::abs(S::mul(r, p));
  const F turned = S::sub(log<S>(S::div(S::set(3.14159274f), S::mul(a, sine))), above);
  const F below = S::select(S::less(a, S::set(1e-8f)), above,
                            S::select(S::equal(sine, zero), infinity, S::select(S::equal(a, infinity), a, turned)));
  return S::where_less(x, zero, below, above);
}

}  // namespace expression
}  // namespace rta
