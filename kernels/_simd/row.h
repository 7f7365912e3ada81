// Walking along a row, and sums over it in one order, so that they come out with the same bits on every instruction
// set.
//
// Element i belongs to partial sum i mod 64; the partial sums are then folded in halves. 64 are 4 vectors of 16 or 8 of
// 8: enough independent additions to hide their latency.
#pragma once

#include "_core/stage.h"

namespace rta {

constexpr int kPartialSums = 64;

// body(v, i, n): n elements from i on, v = the partial sum vector they belong to (a constant once unrolled).
template <class S, class Body>
static inline __attribute__((always_inline)) void over_row(int width, Body body) {
  constexpr int lanes = S::kLanes, vectors = kPartialSums / lanes;
  int i = 0;
  for (; i + kPartialSums <= width; i += kPartialSums) {
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) body(v, i + v * lanes, lanes);
  }
  if (i == width) return;
#pragma GCC unroll 16
  for (int v = 0; v < vectors; ++v) {
    const int left = width - i - v * lanes;
    if (left > 0) body(v, i + v * lanes, left < lanes ? left : lanes);
  }
}

template <class S>
static inline __attribute__((always_inline)) typename S::F load_part(const float* p, int n) {
  return n == S::kLanes ? S::load(p) : S::load_n(p, n);
}
template <class S>
static inline __attribute__((always_inline)) void store_part(float* p, typename S::F v, int n) {
  if (n == S::kLanes)
    S::store(p, v);
  else
    S::store_n(p, v, n);
}

template <class S>
struct PartialSums {
  static constexpr int kVectors = kPartialSums / S::kLanes;
  typename S::F part[kVectors];

  PartialSums() {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) part[v] = S::set(0.0f);
  }
  float total() {
#pragma GCC unroll 4
    for (int half = kVectors / 2; half >= 1; half /= 2) {
#pragma GCC unroll 8
      for (int v = 0; v < half; ++v) part[v] = S::add(part[v], part[v + half]);
    }
    return S::sum_of(part[0]);
  }
};

// rint(x * inverse) + zero as kLanes bytes; what the caller does not want of them must have room.
template <class S>
static inline __attribute__((always_inline)) void store_quantized(uint8_t* q, typename S::F x, typename S::F inverse,
                                                                  typename S::I zero) {
  // The conversion to an integer is undefined beyond 2^31.
  const auto t = S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(x, inverse)));
  S::store_u8(q, S::add_int(S::to_int(t), zero));
}

}  // namespace rta
