// The first of each line by vectors, float32: along a line whose elements follow one another, or over several lines
// whose elements lie side by side. Each lane keeps the best of what it saw and, as a float, where that was; a lane
// takes a later element where it is strictly better, so that of equal ones the first stays. Lines with a NaN are the
// caller's.
#pragma once

#include "_simd/simd_common.h"

namespace rta {

template <class S, bool kLargest>
struct FirstByVectors {
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int64_t kLanes = S::kLanes, kMost = int64_t{1} << 24;  // indices that float32 holds
  static constexpr int kChains = 4;  // so that comparisons wait less for each other

  struct Best {
    float value;
    int64_t index;
  };

  // x[0 .. n), n >= kLanes. False where there is a NaN, or nothing but what comes last of all.
  static bool along(const float* x, int64_t n, Best& best) {
    F value[kChains], index[kChains];
    I bits = S::set_int(0);
    for (int c = 0; c < kChains; ++c) {
      value[c] = S::set(worst());
      index[c] = S::set(0.0f);
    }
    int64_t i = 0;
    for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
      const F at = S::set(static_cast<float>(i));
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) take(S::load(x + i + c * kLanes), at, value[c], index[c], bits);
    }
    // Indices so far are those of a round; from here on, a vector's own go to the first chain.
    alignas(64) float values[kChains + 1][kLanes], indices[kChains + 1][kLanes];
    for (int c = 0; c < kChains; ++c) {
      S::store(values[c], value[c]);
      S::store(indices[c], index[c]);
    }
    F rest = S::set(worst()), rest_at = S::set(0.0f);
    for (; i + kLanes <= n; i += kLanes) take(S::load(x + i), S::set(static_cast<float>(i)), rest, rest_at, bits);
    S::store(values[kChains], rest);
    S::store(indices[kChains], rest_at);
    best = {worst(), n};
    for (int c = 0; c <= kChains; ++c)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t index_of = static_cast<int64_t>(indices[c][lane]) + (c < kChains ? c * kLanes : 0) + lane;
        const float v = values[c][lane];
        if (better(v, best.value) || (v == best.value && v != worst() && index_of < best.index)) best = {v, index_of};
      }
    for (; i < n; ++i) {
      if (x[i] != x[i]) return false;
      if (better(x[i], best.value)) best = {x[i], i};
    }
    return S::max_of_int(bits) <= kInfinity && best.value != worst();
  }

  // kLanes lines whose elements i lie at x + at(i), side by side. As above.
  template <class At>
  static bool across(const char* x, int64_t n, const At& at, float (&values)[kLanes], float (&indices)[kLanes]) {
    F value = S::set(worst()), index = S::set(0.0f);
    I bits = S::set_int(0);
    for (int64_t i = 0; i < n; ++i)
      take(S::load(reinterpret_cast<const float*>(x + at(i))), S::set(static_cast<float>(i)), value, index, bits);
    S::store(values, value);
    S::store(indices, index);
    for (int64_t lane = 0; lane < kLanes; ++lane)
      if (values[lane] == worst()) return false;
    return S::max_of_int(bits) <= kInfinity;
  }

 private:
  static constexpr int32_t kInfinity = 0x7f800000;
  static constexpr float worst() { return kLargest ? -__builtin_inff() : __builtin_inff(); }
  static bool better(float a, float b) { return kLargest ? a > b : a < b; }

  static inline __attribute__((always_inline)) void take(F x, F at, F& value, F& index, I& bits) {
    bits = S::max_int(bits, S::bits_of_abs(x));
    const F a = kLargest ? value : x, b = kLargest ? x : value;
    index = S::where_less(a, b, at, index);
    value = S::where_less(a, b, x, value);
  }
};

}  // namespace rta
