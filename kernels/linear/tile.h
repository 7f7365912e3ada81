// What tiles of every kind share: how rows, vectors and sums over k fit the registers, and weights fetched ahead.
#pragma once

#include "linear/epilogue.h"

namespace rta {

// Many rows take a tile in parts of so many vectors: 6 x 4 accumulators fit 32 registers.
constexpr int kPartVectors = 4;

// Sets of accumulators over k, so that about 8 independent sums are in flight.
template <int R, int V>
constexpr int chains() {
  return R * V >= 6 ? 1 : R * V >= 3 ? 2 : 4;
}

// Weights that are fetched while a tile is computed: so many vectors for each group of k.
struct Prefetch {
  const char* weights = nullptr;
  int vectors = 0;

  // The share of one pass, where the passes together fetch `v` vectors for each group: as slowly as their number
  // allows.
  static Prefetch of_pass(int pass, int64_t passes, const char* next, int v, int64_t groups, int step) {
    const int vectors = passes < v ? 2 : 1;
    return pass * vectors < v ? Prefetch{next + pass * vectors * groups * step, vectors} : Prefetch{};
  }

  template <int kStep>
  inline void fetch() {
    if (!RTA_WANTS_FAR_WEIGHTS || !weights) return;
    __builtin_prefetch(weights);
    if (vectors == 2) __builtin_prefetch(weights + kStep);
    weights += vectors * kStep;
  }
};

}  // namespace rta
