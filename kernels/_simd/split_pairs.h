// Takes a line apart: numbers at even places to one line, those at odd places to another.
#pragma once

#include "_simd/transpose.h"

namespace rta {

template <class F, int... L>
static inline __attribute__((always_inline)) void split_vectors(F a, F b, F& even, F& odd, LaneList<L...>) {
  even = __builtin_shufflevector(a, b, (2 * L)...);
  odd = __builtin_shufflevector(a, b, (2 * L + 1)...);
}

// vector(i): the numbers from i on, for i + kLanes <= count; one(i): number i.
template <class S, class Vector, class One>
static inline __attribute__((always_inline)) void split_pairs(int64_t count, float* even, float* odd,
                                                              const Vector& vector, const One& one) {
  int64_t i = 0;
  for (; i + 2 * S::kLanes <= count; i += 2 * S::kLanes) {
    typename S::F first, second;
    split_vectors(vector(i), vector(i + S::kLanes), first, second, typename AllLanes<S::kLanes>::List());
    S::store(even + i / 2, first);
    S::store(odd + i / 2, second);
  }
  for (; i < count; ++i) {
    float* to = i % 2 ? odd : even;  // apart: gcc 12 with UBSan adds both where the choice is indexed
    to[i / 2] = one(i);
  }
}

}  // namespace rta
