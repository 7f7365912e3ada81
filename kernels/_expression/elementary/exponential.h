// exp and what is made of its parts.
#pragma once

#include "_expression/elementary/basic.h"

namespace rta {
namespace expression {

// 2^n for -252 <= n <= 252, in two factors: each is a float32 of its own, denormal results and the last binade come out
// right.
template <class S>
static inline typename S::F times_power_of_two(typename S::F p, typename S::I n) {
  const typename S::I half = S::template shift_right<1>(n), rest = S::sub_int(n, half), bias = S::set_int(127);
  p = S::mul(p, S::as_float(S::template shift_left<23>(S::add_int(half, bias))));
  return S::mul(p, S::as_float(S::template shift_left<23>(S::add_int(rest, bias))));
}

// exp(x) = 2^n p, p = exp(r), r = x - n ln 2 in two parts, |r| <= 0.347; the Taylor polynomial of degree 7 (relative
// error 5e-9). 0 below -104, infinite above 88.73, a NaN stays one.
template <class S>
struct PowerOfE {
  typename S::F p;
  typename S::I n;

  // -210 <= x <= 170
  explicit inline __attribute__((always_inline)) PowerOfE(typename S::F x) {
    using F = typename S::F;
    const F bias = S::set(12582912.0f);  // adding it rounds to a whole number, in the last bits
    const F shifted = S::fma(x, S::set(1.44269504f), bias), rounded = S::sub(shifted, bias);
    const F r = S::fma(rounded, S::set(2.12194440e-4f), S::fma(rounded, S::set(-0.693359375f), x));
    p = polynomial<S>(r, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f);
    n = S::sub_int(S::as_int(shifted), S::set_int(0x4B400000));
  }
};

template <class S>
static inline typename S::F exp(typename S::F x) {
  const PowerOfE<S> e(S::max(S::set(-105.0f), S::min(S::set(89.0f), x)));
  return times_power_of_two<S>(e.p, e.n);
}

// 2^n p - 1 = 2^n (p - 1) + (2^n - 1), where p - 1 keeps its digits near 0. Twice of half of it: 2^128 is none.
template <class S>
static inline typename S::F expm1(typename S::F x) {
  using F = typename S::F;
  const F bias = S::set(12582912.0f);
  x = S::max(S::set(-20.0f), S::min(S::set(89.0f), x));
  const F shifted = S::fma(x, S::set(1.44269504f), bias), n = S::sub(shifted, bias);
  const F r = S::fma(n, S::set(2.12194440e-4f), S::fma(n, S::set(-0.693359375f), x));
  const F q = polynomial<S>(r, 1.98458918e-4f, 1.39408035e-3f, 8.33338965e-3f, 4.16663587e-2f, 0.166666657f, 0.5f);
  const F p = S::fma(S::mul(r, r), q, r);
  const F half = S::as_float(S::template shift_left<23>(S::sub_int(S::as_int(shifted), S::set_int(0x4B400000 - 126))));
  const F y = S::fma(half, p, S::sub(half, S::set(0.5f)));
  return S::copy_sign(S::add(y, y), x);
}

}  // namespace expression
}  // namespace rta
