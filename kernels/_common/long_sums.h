// Sums of very many numbers, whose rounding errors do not grow with their count.
//
// A sum in one register adds each number to all before it: of n numbers of one sign the error is up to n / 2 roundings
// of the result. Here the sum of each run of kSumRun numbers is added to those of the runs before: about kSumRun / 2 +
// n / kSumRun. Up to one run it is the plain sum, with the same bits. Floor: one addition, load and store for kSumRun
// numbers.
#pragma once

#include <cstdint>

namespace rta {

constexpr int64_t kSumRun = 512;

// Where the next run of n numbers ends, of which `first` were added. chains: sums that are added side by side.
static inline int64_t run_end(int64_t first, int64_t n, int64_t chains = 1) {
  return n - first > kSumRun * chains ? first + kSumRun * chains : n;
}

// R by V vectors of sums.
template <class S, int R, int V>
class LongSums {
  using F = typename S::F;

 public:
  // After a run: its sums are kept, and start again from 0.
  inline __attribute__((always_inline)) void keep(F (&sum)[R][V]) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        float* at = kept_ + (r * V + v) * S::kLanes;
        S::store(at, any_ ? S::add(S::load(at), sum[r][v]) : sum[r][v]);
        sum[r][v] = S::set(0.0f);
      }
    any_ = true;
  }

  // After the last: the sums of all runs.
  inline __attribute__((always_inline)) void finish(F (&sum)[R][V]) const {
    if (!any_) return;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] = S::add(S::load(kept_ + (r * V + v) * S::kLanes), sum[r][v]);
  }

 private:
  alignas(64) float kept_[R * V * S::kLanes];
  bool any_ = false;
};

}  // namespace rta
