// Lines whose elements follow one another, turned so that lines lie beside one another: squares of kBeside lines and as
// many elements of each, in registers, in and out again. Not inlined: every kind of sum would have its own copy.
#pragma once

#include "_simd/transpose.h"

namespace rta {

template <class S>
struct LineSquare {
  static constexpr int kBeside = 16;
  static constexpr int64_t kRows[kBeside] = {0,   64,  128, 192, 256, 320, 384, 448,
                                             512, 576, 640, 704, 768, 832, 896, 960};  // bytes to each
  float at[kBeside][kBeside];                                                          // [element][line]

  // `wide` elements from `from` bytes on.
  __attribute__((noinline)) void read(const char* const (&lines)[kBeside], int64_t from, int wide) {
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
  __attribute__((noinline)) void write(char* const (&lines)[kBeside], int count, int64_t from, int wide) const {
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
