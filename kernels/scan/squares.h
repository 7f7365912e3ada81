// Lines whose elements follow one another, turned so that lines lie beside one another: squares of kBeside lines and as
// many elements of each, in registers, in and out again.
#pragma once

#include "_simd/transpose.h"

namespace rta {

template <class S>
struct LineSquare {
  static constexpr int kBeside = 16;
  float at[kBeside][kBeside];  // [element][line]

  // `wide` elements from `from` bytes on.
  void read(const char* const (&lines)[kBeside], int64_t from, int wide) {
    for (int r = 0; r < kBeside; r += kLanes)
      for (int c = 0; c < wide; c += kLanes) {
        const int n = wide - c < kLanes ? wide - c : kLanes;
        typename S::F row[kLanes];
#pragma GCC unroll 16
        for (int q = 0; q < kLanes; ++q) {
          const float* p = reinterpret_cast<const float*>(lines[r + q] + from) + c;
          row[q] = n == kLanes ? S::load(p) : S::load_n(p, n);
        }
        exchange_all<S, 1>(row);
#pragma GCC unroll 16
        for (int q = 0; q < kLanes; ++q) S::store(&at[c + q][r], row[q]);
      }
  }

  // Of the first `count` lines.
  void write(char* const (&lines)[kBeside], int count, int64_t from, int wide) const {
    for (int r = 0; r < count; r += kLanes)
      for (int c = 0; c < wide; c += kLanes) {
        const int n = wide - c < kLanes ? wide - c : kLanes;
        typename S::F row[kLanes];
#pragma GCC unroll 16
        for (int q = 0; q < kLanes; ++q) row[q] = S::load(&at[c + q][r]);
        exchange_all<S, 1>(row);
#pragma GCC unroll 16
        for (int q = 0; q < kLanes; ++q) {
          if (r + q >= count) break;
          float* p = reinterpret_cast<float*>(lines[r + q] + from) + c;
          if (n == kLanes)
            S::store(p, row[q]);
          else
            S::store_n(p, row[q], n);
        }
      }
  }

 private:
  static constexpr int kLanes = S::kLanes;
};

}  // namespace rta
