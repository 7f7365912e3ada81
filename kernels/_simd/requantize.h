// Sums straight to bytes, in registers: the end of an int8 layer with nothing but a ReLU between its sums and its int8
// output. clamp(rint(float32(sum) * multiplier + offset) + zero, low, 255), low >= 0; |.| < 2^21 before the rounding,
// so that packing with saturation is the clamp.
#pragma once

#include "_simd/store_bytes.h"

// One copy of a function, for all that calls it with a number.
#if defined(__GNUC__) && !defined(__clang__)
#define RTA_ONE_COPY __attribute__((noinline, noclone))
#else
#define RTA_ONE_COPY __attribute__((noinline))
#endif

namespace rta {

// kPlain: zero and low are 0, as after a ReLU.
template <class S, int V, bool kPlain>
static inline __attribute__((always_inline)) void requantize_row(const typename S::I (&sum)[V], const float* multiplier,
                                                                 const float* offset, uint8_t* to, int32_t zero,
                                                                 int32_t low) {
  constexpr int kFirst = V < 4 ? V : 4;
  typename S::I first[kFirst];
  const auto number = [&](int v) __attribute__((always_inline)) {
    return S::to_int(
        S::add(S::mul(S::to_float(sum[v]), S::load(multiplier + v * S::kLanes)), S::load(offset + v * S::kLanes)));
  };
#pragma GCC unroll 4
  for (int v = 0; v < kFirst; ++v) first[v] = number(v);
  store_bytes<S, kFirst, kPlain>(to, first, zero, low);
  if constexpr (V > 4) {
    typename S::I rest[V - 4];
#pragma GCC unroll 4
    for (int v = 4; v < V; ++v) rest[v - 4] = number(v);
    store_bytes<S, V - 4, kPlain>(to + 4 * S::kLanes, rest, zero, low);
  }
}

// R rows of V vectors; multiplier and offset: V vectors; to: the first row, the others follow at `pitch`.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void requantize(const typename S::I (&sum)[R][V], const float* multiplier,
                                                             const float* offset, uint8_t* to, int64_t pitch,
                                                             int32_t zero, int32_t low) {
  if ((zero | low) == 0) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) requantize_row<S, V, true>(sum[r], multiplier, offset, to + r * pitch, 0, 0);
  } else {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) requantize_row<S, V, false>(sum[r], multiplier, offset, to + r * pitch, zero, low);
  }
}

}  // namespace rta
