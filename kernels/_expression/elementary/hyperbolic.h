// sinh, cosh and the inverse ones.
#pragma once

#include "_expression/elementary/exponential.h"
#include "_expression/elementary/logarithm.h"

namespace rta {
namespace expression {

// Half of exp(|x|), and what is left of it: half of exp(-|x|).
template <class S>
struct Halves {
  typename S::F more, less;

  explicit inline __attribute__((always_inline)) Halves(typename S::F size) {
    const PowerOfE<S> e(S::min(S::set(90.0f), size));
    more = times_power_of_two<S>(e.p, S::sub_int(e.n, S::set_int(1)));
    less = S::div(S::set(0.25f), more);
  }
};

// x + x^3 P(x^2) up to 1 (least relative error, 5e-11).
template <class S>
static inline typename S::F sinh(typename S::F x) {
  using F = typename S::F;
  const F size = S::abs(x), z = S::mul(x, x);
  const F p = polynomial<S>(z, 2.81695134e-6f, 1.98361595e-4f, 8.33334960e-3f, 0.166666672f);
  const Halves<S> e(size);
  return S::copy_sign(S::where_less(size, S::set(1.0f), S::fma(S::mul(z, p), size, size), S::sub(e.more, e.less)), x);
}

template <class S>
static inline typename S::F cosh(typename S::F x) {
  const Halves<S> e(S::abs(x));
  return S::add(e.more, e.less);
}

// log(x + sqrt(x^2 + 1)) = log1p(x + x^2 / (1 + sqrt(x^2 + 1))); log(2 x) where a square would overflow.
template <class S>
static inline typename S::F asinh(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), most = S::set(1e9f), size = S::abs(x), a = S::min(most, size), z = S::mul(a, a);
  const F v = S::add(a, S::div(z, S::add(one, S::sqrt(S::add(one, z)))));
  const F u = S::add(one, v);
  const F low = S::where_less(one, v, S::sub(one, S::sub(u, v)), S::sub(v, S::sub(u, one)));
  const F y = log_sum<S, true>(S::where_less(a, size, size, u), S::where_less(a, size, S::set(0.0f), low));
  return S::copy_sign(S::add(y, S::where_less(a, size, S::set(0.693147182f), S::set(0.0f))), x);
}

// log1p(t + sqrt(t (t + 2))), t = x - 1; log(2 x) where a square would overflow. NaN below 1.
template <class S>
static inline typename S::F acosh(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), most = S::set(1e9f), a = S::min(most, x), t = S::sub(a, one);
  const F v = S::add(t, S::sqrt(S::mul(t, S::add(t, S::set(2.0f)))));
  const F u = S::add(one, v);
  const F low = S::where_less(one, v, S::sub(one, S::sub(u, v)), S::sub(v, S::sub(u, one)));
  const F y = log_sum<S, true>(S::where_less(a, x, x, u), S::where_less(a, x, S::set(0.0f), low));
  const F sum = S::add(y, S::where_less(a, x, S::set(0.693147182f), S::set(0.0f)));
  return S::where_less(x, one, S::set(__builtin_nanf("")), sum);
}

// log1p(2 x / (1 - x)) / 2.
template <class S>
static inline typename S::F atanh(typename S::F x) {
  using F = typename S::F;
  const F size = S::abs(x);
  const F y = log1p<S>(S::div(S::add(size, size), S::sub(S::set(1.0f), size)));
  return S::copy_sign(S::mul(y, S::set(0.5f)), x);
}

}  // namespace expression
}  // namespace rta
