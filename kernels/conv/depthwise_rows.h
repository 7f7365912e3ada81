// Depthwise kernels three wide without gaps, over rows of the image: the rest of depthwise.h, which includes it.
//
// Loads are the bound where each tap reads x anew: 20 of them for 16 multiply-adds. Here they are 7 for 15 and, with
// the weights, 10 (rows of 5 outputs).
#pragma once

#include "depthwise.h"

namespace rta {

// One packed tile of weights over all rows of the image. Returns the next.
template <class S>
template <bool kInt8>
const float* DepthwiseStage<S>::image_rows(const Source& from, const float* w, const ConvTarget& at) const {
  const int64_t left = (at.left + S::kLanes - 1) / S::kLanes;
  const int all = static_cast<int>(left < 4 ? left : 4);
  for (int v = 0; v < all; v += kRowVectors) {
    const int64_t skipped = v * S::kLanes, column = at.column + skipped;
    const Source part{from.image + column * (kInt8 ? 1 : 4), from.delta, from.scale};
    const ConvTarget to{at.y, at.other, column, at.left - skipped, true};
    if (kRowVectors == 1 || all - v == 1)
      image_rows<kInt8, 1>(part, w + skipped, all, to);
    else
      image_rows<kInt8, kRowVectors>(part, w + skipped, all, to);
  }
  return w + p_.at.taps * all * S::kLanes;
}

template <class S>
template <bool kInt8, int V>
void DepthwiseStage<S>::image_rows(const Source& from, const float* w, int packed, const ConvTarget& to) const {
  const int64_t width = p_.at.out.x;
  for (int64_t row = 0; row < p_.at.out_count; row += width)
    for (int64_t x = 0; x < width; x += row_) {
      const int64_t position = row + (x + row_ > width ? width - row_ : x);  // the last overlaps the one before
      switch (row_) {
        case 3: row_tile<kInt8, 3, V>(from, w, packed, to, position); break;
        case 4: row_tile<kInt8, 4, V>(from, w, packed, to, position); break;
        case 5: row_tile<kInt8, 5, V>(from, w, packed, to, position); break;
        default: row_tile<kInt8, 6, V>(from, w, packed, to, position);
      }
    }
}

// R outputs side by side. The taps of an output are added in their order, as everywhere.
template <class S>
template <bool kInt8, int R, int V>
void DepthwiseStage<S>::row_tile(const Source& source, const float* w, int packed, const ConvTarget& to,
                                 int64_t position) const {
  F t[R][V];
  start<kInt8>(t, to);
  const int64_t taps = p_.at.taps, step = packed * S::kLanes;
  const int32_t *first = index_ + position * taps, *last = first + (R - 1) * taps;
  const char* const pad = pad_;
  for (int64_t tap = 0; tap < taps; tap += 3, w += 3 * step) {
    F weight[3][V];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weight[i][v] = S::load(w + i * step + v * S::kLanes);
#pragma GCC unroll 8
    for (int column = 0; column < R + 2; ++column) {
      const int64_t d = column < R ? first[column * taps + tap] : last[tap + column - R + 1];
      const char* from = d < 0 ? pad : source.image + d;
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const F x = number<kInt8>(from, v);
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i)
          if (column - i >= 0 && column - i < R) t[column - i][v] = S::mul_add(x, weight[i][v], t[column - i][v]);
      }
    }
  }
  epilogue<kInt8>(t, source.scale, to, position);
}

}  // namespace rta
