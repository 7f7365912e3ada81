// The first of each line by vectors, float32: along a line whose elements follow one another, or over several lines
// whose elements lie side by side. Of these each lane keeps the best of what it saw and, as a float, where that was; it
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

  // x[0 .. n), n >= kLanes: the best of all first, then the first vector that has it. False where there is a NaN, or
  // nothing but what comes last of all.
  static bool along(const float* x, int64_t n, Best& best) {
    F value[kChains];
    I bits = S::set_int(0);
    for (F& v : value) v = S::set(worst());
    int64_t i = 0;
    for (; i + kChains * kLanes <= n; i += kChains * kLanes)
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) take(S::load(x + i + c * kLanes), value[c], bits);
    for (; i + kLanes <= n; i += kLanes) take(S::load(x + i), value[0], bits);
    if (i < n) take(S::load_n(x + i, static_cast<int>(n - i), worst()), value[1], bits);
    const F all = best_of(best_of(value[0], value[1]), best_of(value[2], value[3]));
    const float found = kLargest ? S::max_of(all) : -S::max_of(S::sub(S::set(0.0f), all));
    if (S::max_of_int(bits) > kInfinity || found == worst()) return false;
    const F least = S::set(found);
    for (i = 0; i + kLanes <= n; i += kLanes)
      if (!S::all(kLargest ? S::less(S::load(x + i), least) : S::less(least, S::load(x + i)))) break;
    while (x[i] != found) ++i;
    best = {x[i], i};
    return true;
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
  static F best_of(F a, F b) { return kLargest ? S::max(a, b) : S::min(a, b); }

  static inline __attribute__((always_inline)) void take(F x, F& value, I& bits) {
    bits = S::max_int(bits, S::bits_of_abs(x));
    value = best_of(value, x);
  }

  static inline __attribute__((always_inline)) void take(F x, F at, F& value, F& index, I& bits) {
    bits = S::max_int(bits, S::bits_of_abs(x));
    const F a = kLargest ? value : x, b = kLargest ? x : value;
    index = S::where_less(a, b, at, index);
    value = S::where_less(a, b, x, value);
  }
};

}  // namespace rta
