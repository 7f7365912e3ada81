// Two vectors of an instruction set as one: every operation is made of the first and of the second, side by side. What
// is written over it has two chains of operations that do not wait for one another, with the bits of each alone.
#pragma once

namespace rta {
namespace {

template <class S>
struct Pair {
  struct F {
    typename S::F a, b;
  };
  struct I {
    typename S::I a, b;
  };
  static F set(float v) { return {S::set(v), S::set(v)}; }
  static F add(const F& x, const F& y) { return {S::add(x.a, y.a), S::add(x.b, y.b)}; }
  static F sub(const F& x, const F& y) { return {S::sub(x.a, y.a), S::sub(x.b, y.b)}; }
  static F mul(const F& x, const F& y) { return {S::mul(x.a, y.a), S::mul(x.b, y.b)}; }
  static F div(const F& x, const F& y) { return {S::div(x.a, y.a), S::div(x.b, y.b)}; }
  static F max(const F& x, const F& y) { return {S::max(x.a, y.a), S::max(x.b, y.b)}; }
  static F min(const F& x, const F& y) { return {S::min(x.a, y.a), S::min(x.b, y.b)}; }
  static F fma(const F& x, const F& y, const F& z) { return {S::fma(x.a, y.a, z.a), S::fma(x.b, y.b, z.b)}; }
  static F mul_add(const F& x, const F& y, const F& z) {
    return {S::mul_add(x.a, y.a, z.a), S::mul_add(x.b, y.b, z.b)};
  }
  static F copy_sign(const F& x, const F& sign) { return {S::copy_sign(x.a, sign.a), S::copy_sign(x.b, sign.b)}; }
  static F where_less(const F& x, const F& y, const F& yes, const F& no) {
    return {S::where_less(x.a, y.a, yes.a, no.a), S::where_less(x.b, y.b, yes.b, no.b)};
  }
  static I as_int(const F& x) { return {S::as_int(x.a), S::as_int(x.b)}; }
  static F as_float(const I& x) { return {S::as_float(x.a), S::as_float(x.b)}; }
  template <int n>
  static I shift_left(const I& x) {
    return {S::template shift_left<n>(x.a), S::template shift_left<n>(x.b)};
  }
};

}  // namespace
}  // namespace rta
