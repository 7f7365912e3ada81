// log and log1p.
#pragma once

#include "_expression/elementary/basic.h"

namespace rta {
namespace expression {

// log(x + low) = n ln 2 + 2 atanh(s) + low / x, s = (m - 1) / (m + 1), sqrt(1/2) <= m < sqrt(2): |s| < 0.172, and five
// terms of the series of atanh leave 3e-10. low is what was rounded off x. -infinity at 0, NaN below.
template <class S, bool kLow>
static inline typename S::F log_sum(typename S::F x, typename S::F low) {
  using F = typename S::F;
  const F zero = S::set(0.0f), one = S::set(1.0f), infinity = S::set(__builtin_inff());
  const auto tiny = S::less(x, S::set(1.17549435e-38f));  // denormals have no exponent of their own
  const F scaled = S::select(tiny, S::mul(x, S::set(8388608.0f)), x);
  const typename S::I bits = S::sub_int(S::as_int(scaled), S::set_int(0x3F3504F3));
  const F n = S::sub(S::to_float(S::template shift_right<23>(bits)), S::select(tiny, S::set(23.0f), zero));
  const F m = S::as_float(S::add_int(S::and_int(bits, S::set_int(0x007FFFFF)), S::set_int(0x3F3504F3)));
  const F f = S::sub(m, one), s = S::div(f, S::add(m, one)), z = S::mul(s, s);
  const F p = polynomial<S>(z, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3);
  // 2 s + s z p, where 2 s = f - s f: what the quotient rounds off is small beside f.
  F tail = S::mul(s, S::sub(S::mul(z, p), f));
  if constexpr (kLow) tail = S::add(tail, S::div(low, x));
  const F y = S::fma(n, S::set(0.693359375f), S::add(f, S::fma(n, S::set(-2.12194440e-4f), tail)));
  const F usual = S::select(S::equal(x, infinity), infinity, S::select(S::equal(x, x), y, x));
  return S::select(S::less(x, zero), S::set(__builtin_nanf("")),
                   S::select(S::equal(x, zero), S::set(-__builtin_inff()), usual));
}

template <class S>
static inline typename S::F log(typename S::F x) {
  return log_sum<S, false>(x, x);
}

// The log of 1 + x as it rounds, and what that rounds off.
template <class S>
static inline typename S::F log1p(typename S::F x) {
  using F = typename S::F;
  const F one = S::set(1.0f), u = S::add(one, x);
  const F low = S::where_less(one, x, S::sub(one, S::sub(u, x)), S::sub(x, S::sub(u, one)));
  return S::copy_sign(log_sum<S, true>(u, low), x);
}

}  // namespace expression
}  // namespace rta
