// The primitives of one instruction set, applied to the same arrays whatever the number of lanes.
// Dot products: int8 bf16
#pragma once

#include "_core/stage.h"
#include "native/vectors.h"

namespace check {

template <class S>
struct Apply {
  using F = typename S::F;
  using I = typename S::I;

  static void run(const VectorInputs& in, VectorResults& out) {
    for (int i = 0; i < kCount; i += S::kLanes) {
      const F a = S::load(in.a + i), b = S::load(in.b + i), c = S::load(in.c + i);
      const I u = S::load_int(in.u + i), v = S::load_int(in.v + i);
      const auto put = [&](int op, F value) { S::store(out.floats[op] + i, value); };
      const auto put_int = [&](int op, I value) { S::store_int(out.ints[op] + i, value); };
      put(kAdd, S::add(a, b));
      put(kSub, S::sub(a, b));
      put(kMul, S::mul(a, b));
      put(kDiv, S::div(a, b));
      put(kFma, S::fma(a, b, c));
      put(kMax, S::max(a, b));
      put(kMin, S::min(a, b));
      put(kAbs, S::abs(a));
      put(kCopySign, S::copy_sign(a, b));
      put(kWhereLess, S::where_less(a, b, c, a));
      put(kSelect, S::select(S::equal(a, a), b, c));
      put(kSqrt, S::sqrt(S::abs(a)));
      put(kRsqrt, S::rsqrt(S::abs(b)));
      put(kRound, S::round(a));
      put(kToFloat, S::to_float(u));
      put(kLoadBf16, S::load_bf16(in.halves + i));
      put_int(kToInt, S::to_int(S::load(in.small + i)));
      put_int(kAddInt, S::add_int(u, v));
      put_int(kSubInt, S::sub_int(u, v));
      put_int(kMulInt, S::mul_int(u, v));
      put_int(kMaxInt, S::max_int(u, v));
      put_int(kMinInt, S::min_int(u, v));
      put_int(kAndInt, S::and_int(u, v));
      put_int(kShiftLeft, S::template shift_left<5>(u));
      put_int(kShiftRight, S::template shift_right<5>(u));
      put_int(kBitsOfAbs, S::bits_of_abs(a));
      put_int(kAsInt, S::as_int(S::as_float(u)));
      put_int(kLoadU8, S::load_u8(in.bytes + i));
      put_int(kLoadS8, S::load_s8(reinterpret_cast<const int8_t*>(in.bytes) + i));
      put_int(kLoadU16, S::load_u16(in.halves + i));
      S::store_u8(out.bytes + i, S::add_int(S::template shift_right<22>(u), S::set_int(100)));
      S::store_u16(out.halves + i, u);
      S::store_bf16(out.bfloats + i, a);
    }
    part(in, out);
    whole(in, out);
    dots(in, out);
  }

  // Loads and stores of fewer than kLanes: n lanes from memory that ends there.
  static void part(const VectorInputs& in, VectorResults& out) {
    for (int n = 0; n < S::kLanes; ++n) {
      const auto end = [&](auto* all) { return all + kCount - n; };
      alignas(64) float floats[16], stored[32];
      alignas(64) int32_t ints[16];
      bool same = true;
      const auto check_floats = [&](F got, const float* want, float rest) {
        S::store(floats, got);
        for (int i = 0; i < S::kLanes; ++i) same &= floats[i] == (i < n ? want[i] : rest);
      };
      const auto check_ints = [&](I got, const auto* want) {
        S::store_int(ints, got);
        for (int i = 0; i < n; ++i) same &= ints[i] == want[i];
      };
      check_floats(S::load_n(end(in.small), n, 7.0f), end(in.small), 7.0f);
      check_ints(S::load_u8_n(end(in.bytes), n), end(in.bytes));
      check_ints(S::load_s8_n(reinterpret_cast<const int8_t*>(end(in.bytes)), n),
                 reinterpret_cast<const int8_t*>(end(in.bytes)));
      check_ints(S::as_int(S::load_bf16_n(end(in.halves), n)), out.ints[kBf16Bits] + kCount - n);
      for (float& f : stored) f = 3.0f;
      S::store_n(stored + 8, S::set(1.5f), n);
      for (int i = 0; i < 32; ++i) same &= stored[i] == (i >= 8 && i < 8 + n ? 1.5f : 3.0f);
      out.parts_right &= same;
    }
  }

  static void whole(const VectorInputs& in, VectorResults& out) {
    for (int i = 0; i < kCount; i += S::kLanes) {
      const F s = S::load(in.small + i);
      const I u = S::load_int(in.exponents + i);
      float top = in.small[i];
      double sum = 0;
      int32_t top_int = in.exponents[i], sum_int = 0;
      for (int j = i; j < i + S::kLanes; ++j) {
        top = in.small[j] > top ? in.small[j] : top;
        sum += in.small[j];
        top_int = in.exponents[j] > top_int ? in.exponents[j] : top_int;
        sum_int += in.exponents[j];
      }
      const double error = S::sum_of(s) - sum;
      out.parts_right &= S::max_of(s) == top && error < 0.01 && error > -0.01 && S::max_of_int(u) == top_int &&
                         S::sum_of_int(u) == sum_int;
    }
  }

  // kCount outputs over kDotK, packed as kernels pack.
  static void dots(const VectorInputs& in, VectorResults& out) {
    alignas(64) int8_t packed[kDotK * 16];
    alignas(64) uint16_t halves[kDotK * 16];
    for (int i = 0; i < kCount; i += S::kLanes) {
      constexpr int G = S::kGroup, B = S::kGroupBf16;
      static_assert(S::kWeightBytes == G * S::kLanes && kDotK % G == 0);
      for (int k = 0; k < kDotK; ++k)
        for (int lane = 0; lane < S::kLanes; ++lane) {
          packed[(k / G * S::kLanes + lane) * G + k % G] = in.weights[i + lane][k];
          halves[(k / B * S::kLanes + lane) * B + k % B] = in.bf16_weights[i + lane][k];
        }
      I sum = S::set_int(0);
      for (int k = 0; k < kDotK; k += G) sum = S::dot(sum, S::broadcast_x(in.x + k), S::load_w(packed + k * S::kLanes));
      int32_t sums[16];
      S::store_int(sums, sum);
      for (int lane = 0; lane < S::kLanes; ++lane) {  // to sums of q, whatever was summed
        int32_t weights = 0;
        for (int k = 0; k < kDotK; ++k) weights += in.weights[i + lane][k];
        out.ints[kDot][i + lane] = sums[lane] - S::kXOffset * weights;
      }
      F total = S::load(in.c + i);
      for (int k = 0; k < kDotK; k += B)
        total = S::dot_bf16(total, S::broadcast_bf16(in.bf16_x + k), S::load_w_bf16(halves + k * S::kLanes));
      S::store(out.floats[kDotBf16] + i, total);
    }
  }
};

}  // namespace check

namespace rta {

template <class S>
static void register_kernels() {
  check::add_vectors(S::kIsa, check::Apply<S>::run);
}

}  // namespace rta
