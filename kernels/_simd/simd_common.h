// What every instruction set says in the same words, in terms of its own primitives. The names that a set gives, and
// what they mean, are listed here; kernels use nothing else.
//
// F: kLanes float32.  I: kLanes int32.  M: a mask of kLanes.  _n: the first n lanes only, nothing else is touched.
//   load store load_n store_n set            add sub mul div sqrt abs copy_sign    fma: one rounding on every set
//   mul_add: fused or not, the fastest       max min: b where either is NaN        where_less less equal select
//   all: of a mask
//   round: to nearest even, any size         to_int: the same, |v| < 2^22          to_float  max_of  sum_of
//   load_int store_int set_int               add_int sub_int mul_int max_int min_int and_int
//   shift_left<n>  shift_right<n> (copies the sign)  max_of_int  sum_of_int  as_int as_float (the same bits)
//   bits_of_abs                              gather(p, at): p[at] for each lane
//   load_u8 load_s8 load_u16: kLanes numbers to I.     store_u8: lanes clamped to 0..255.  store_u16: low 16 bits
//   load_bf16 store_bf16: kLanes bfloat16 from and to F; storing rounds to nearest even, a NaN stays one
//
// int8 dot product, exact for every 8-bit input: acc lane += sum over kGroup neighboring k of x * w.
//   X broadcast_x(p): kGroup activations that lie in memory as q + 128, in every lane. What it holds, and so what is
//   summed, is q + kXOffset: a kernel starts its sums from -(zero_point + kXOffset) * sum_k w.
//   W load_w(p): kWeightBytes of weights, [kLanes outputs][kGroup k], aligned to kWeightBytes.
//   kWidens: X has 16 bits for each activation. A kernel that reads a row often may bring it into that form first:
//   widen_u8(from, to), kLanes numbers; broadcast_wide(p), a pair of them in every lane; dot_wide, the same product
//   for loops with many accumulators. With 16 registers also H, 2 * kLanes int16: set_16 add_16 sub_16 store_16, and
//   load_u8_16, so many bytes.
//
//   kAddsDots: the set is its parent with another dot product. It has no float32 forms (kHasFloat32): they would be its
//   parent's again.
//
// bfloat16 dot product: acc lane = fma(x0, w0, fma(x1, w1, acc)) on every set, in this order because vdpbf16ps has it.
//   The same bits everywhere but for subnormals, which vdpbf16ps reads and writes as 0.
//   XB broadcast_bf16(p): a pair of activations.  WB load_w_bf16(p): [kLanes outputs][2 k], 4 * kLanes bytes, aligned.
#pragma once

#include <cstdint>

#include "_core/isa.h"

namespace rta {
namespace {

// S: the set itself. T: its vector types F, I and M.
template <class S, class T>
struct Common : T {
  using F = typename T::F;
  using I = typename T::I;
  static constexpr bool kAddsDots = false, kWidens = false;
  static F rsqrt(F a) { return S::div(S::set(1.0f), S::sqrt(a)); }  // two roundings, on every set
  static F where_less(F a, F b, F yes, F no) { return S::select(S::less(a, b), yes, no); }

  static F gather(const float* p, I at) {
    alignas(64) int32_t from[sizeof(I) / 4];
    alignas(64) float found[sizeof(I) / 4];
    S::store_int(from, at);
    for (size_t i = 0; i < sizeof(I) / 4; ++i) found[i] = p[from[i]];
    return S::load(found);
  }

  static I load_u8_n(const uint8_t* p, int n) { return S::load_u8(copied<uint8_t>(p, n).lanes); }
  static I load_s8_n(const int8_t* p, int n) { return S::load_s8(copied<int8_t>(p, n).lanes); }

  static F load_bf16(const uint16_t* p) { return S::as_float(S::template shift_left<16>(S::load_u16(p))); }
  static F load_bf16_n(const uint16_t* p, int n) { return load_bf16(copied<uint16_t>(p, n).lanes); }
  static void store_bf16(uint16_t* p, F v) {
    const I bits = S::as_int(v), half = S::template shift_right<16>(bits);
    const I rounded = S::add_int(bits, S::add_int(S::set_int(0x7fff), S::and_int(half, S::set_int(1))));
    const F kept = S::select(S::equal(v, v), S::as_float(rounded), S::as_float(S::set_int(0x7fc00000)));
    S::store_u16(p, S::template shift_right<16>(S::as_int(kept)));
  }

  static constexpr int kGroupBf16 = 2;
  struct XB {
    F even, odd;
  };
  using WB = I;
  static XB broadcast_bf16(const uint16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return split(S::set_int(pair));
  }
  static WB load_w_bf16(const uint16_t* p) { return S::load_int(reinterpret_cast<const int32_t*>(p)); }
  static F dot_bf16(F acc, XB x, WB w) {
    const XB both = split(w);
    return S::fma(x.even, both.even, S::fma(x.odd, both.odd, acc));
  }

 private:
  static XB split(I pairs) {
    return {S::as_float(S::template shift_left<16>(pairs)),
            S::as_float(S::and_int(pairs, S::set_int(static_cast<int32_t>(0xffff0000))))};
  }
  template <class N>
  struct Lanes {
    N lanes[16];
  };
  template <class N>
  static Lanes<N> copied(const N* p, int n) {
    Lanes<N> all = {};
    for (int i = 0; i < n; ++i) all.lanes[i] = p[i];
    return all;
  }
};

}  // namespace
}  // namespace rta
