// Depthwise kernels three, five or seven wide without gaps, over rows of the image: the rest of channels.h, which
// includes it.
//
// Loads are the bound where each tap reads x anew: 20 of them for 16 multiply-adds. Here they are 7 for 15 and, with
// the weights, 10 (rows of 5 outputs, three wide); of seven wide 20 for 49.
#pragma once

#include "channels.h"

namespace rta {

// One packed tile of weights over all rows of the image. Returns the next. Row by row, so that the vectors of a cache
// line are taken from it while it is near: an image of more than 32 KB else passes by once for each.
template <class S, int kWide>
template <bool kInt8, bool kIndexed>
const float* DepthwiseStage<S, kWide>::image_rows(const Source& from, const float* w, const ConvTarget& at) const {
  const int64_t left = (at.left + S::kLanes - 1) / S::kLanes;
  const int all = static_cast<int>(left < 4 ? left : 4);
  const int64_t width = p_.at.out.x, all_rows = p_.at.out_count / width;
  // As many rows as stay near with what is written.
  const int64_t near = square_ ? kNear / (width * all * S::kLanes * 8) + 1 : 1;
  for (int64_t row = 0, now; row < all_rows; row += now) {
    now = all_rows - row < near ? all_rows - row : near;
    for (int v = 0; v < all; v += square_ ? 1 : kRowVectors) {
      const int64_t skipped = v * S::kLanes, column = at.column + skipped;
      const Source part{from.image + column * (kInt8 ? 1 : 4), from.delta, from.scale};
      const ConvTarget to{at.y, at.other, column, at.left - skipped, true};
      if (kIndexed && square_)
        square_rows<kInt8>(part, w + skipped, all, to, row * width, now);
      else if (kRowVectors == 1 || all - v == 1)
        image_row<kInt8, kIndexed, 1>(part, w + skipped, all, to, row * width);
      else
        image_row<kInt8, kIndexed, kRowVectors>(part, w + skipped, all, to, row * width);
    }
  }
  return w + p_.at.taps * all * S::kLanes;
}

template <class S, int kWide>
template <bool kInt8, bool kIndexed, int V>
void DepthwiseStage<S, kWide>::image_row(const Source& from, const float* w, int packed, const ConvTarget& to,
                                         int64_t row) const {
  const int64_t width = p_.at.out.x;
  const bool apart = p_.at.stride.x == 2;
  for (int64_t x = 0; x < width; x += row_) {
    const int64_t position = row + (x + row_ > width ? width - row_ : x);  // the last overlaps the one before
    switch (p_.at.kernel.x) {
      case 3:
        apart ? row_of<kInt8, kIndexed, 3, 2, V>(from, w, packed, to, position)
              : row_of<kInt8, kIndexed, 3, 1, V>(from, w, packed, to, position);
        break;
      case 5:
        apart ? row_of<kInt8, kIndexed, 5, 2, V>(from, w, packed, to, position)
              : row_of<kInt8, kIndexed, 5, 1, V>(from, w, packed, to, position);
        break;
      default:
        apart ? row_of<kInt8, kIndexed, 7, 2, V>(from, w, packed, to, position)
              : row_of<kInt8, kIndexed, 7, 1, V>(from, w, packed, to, position);
    }
  }
}

template <class S, int kWide>
template <bool kInt8, bool kIndexed, int K, int kStride, int V>
inline __attribute__((always_inline)) void DepthwiseStage<S, kWide>::row_of(const Source& from, const float* w,
                                                                            int packed, const ConvTarget& to,
                                                                            int64_t position) const {
  if (row_ == kMostRow) return row_tile<kInt8, kIndexed, K, kStride, kMostRow, V>(from, w, packed, to, position);
  row_tile<kInt8, kIndexed, K, kStride, kLeastRow, V>(from, w, packed, to, position);
}

// Rows of outputs of a kernel of three by three: all nine weights stay in registers, and no distance is looked up.
template <class S, int kWide>
template <bool kInt8>
void DepthwiseStage<S, kWide>::square_rows(const Source& from, const float* w, int packed, const ConvTarget& to,
                                           int64_t first, int64_t rows) const {
  F weight[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) weight[i] = S::load(w + i * packed * S::kLanes);
  const bool short_end = kInt8 ? p_.int8_out && p_.bounded : p_.plain;
  for (int64_t row = first; rows > 0; --rows, row += p_.at.out.x)
    if (p_.at.stride.x == 2)
      short_end ? square_row<kInt8, true, 2>(from, weight, to, row)
                : square_row<kInt8, false, 2>(from, weight, to, row);
    else
      short_end ? square_row<kInt8, true, 1>(from, weight, to, row)
                : square_row<kInt8, false, 1>(from, weight, to, row);
}

// kShort: sums end in registers, as float32 within bounds and whole vectors, or as bytes. kStride: of the columns.
template <class S, int kWide>
template <bool kInt8, bool kShort, int kStride>
inline __attribute__((always_inline)) void DepthwiseStage<S, kWide>::square_row(const Source& from,
                                                                                const F (&weight)[9],
                                                                                const ConvTarget& to,
                                                                                int64_t row) const {
  Square source;
  const int32_t* index = index_ + (row + 1) * 9;  // of the second output, whose columns are inside the image
#pragma GCC unroll 3
  for (int k = 0; k < 3; ++k) {  // rows outside the image are padding, whatever the column
    const int64_t d = index[3 * k];
    source.from[k] = d < 0 ? pad_ : from.image + d - kStride * p_.x_step;
    source.step[k] = d < 0 ? 0 : p_.x_step;
  }
  const int64_t width = p_.at.out.x;
  switch (width) {
    case 3: return square_tile<kInt8, kShort, kStride, 3>(source, weight, from.scale, to, row, 0);
    case 4: return square_tile<kInt8, kShort, kStride, 4>(source, weight, from.scale, to, row, 0);
    case 5: return square_tile<kInt8, kShort, kStride, 5>(source, weight, from.scale, to, row, 0);
    default:
      for (int64_t x = 0; x < width; x += 6)  // the last overlaps the one before
        square_tile<kInt8, kShort, kStride, 6>(source, weight, from.scale, to, row, x + 6 > width ? width - 6 : x);
  }
}

template <class S, int kWide>
template <bool kInt8, bool kShort, int kStride, int R>
inline __attribute__((always_inline)) void DepthwiseStage<S, kWide>::square_tile(const Square& source,
                                                                                 const F (&weight)[9], float scale,
                                                                                 const ConvTarget& to, int64_t row,
                                                                                 int64_t x) const {
  F t[R][1];
  start<kInt8>(t, to);
  const bool left = x == 0 && p_.at.padding.x, right = x + R == p_.at.out.x && pads_right_;
#pragma GCC unroll 3
  for (int k = 0; k < 3; ++k) {
    const int64_t step = source.step[k];
    const char *from = source.from[k] + x * kStride * step, *const first = left ? pad_ : from;
    constexpr int kLast = kStride * (R - 1) + 2;
    const char* const last = right ? pad_ : from + kLast * step;
#pragma GCC unroll 16
    for (int column = 0; column <= kLast; ++column, from += step) {
      const F value = number<kInt8>(column == 0 ? first : column == kLast ? last : from, 0);
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        const int r = (column - i) / kStride;
        if (column >= i && (column - i) % kStride == 0 && r < R)
          t[r][0] = S::mul_add(value, weight[3 * k + i], t[r][0]);
      }
    }
  }
  const int64_t position = row + x;
  if constexpr (kShort && kInt8) {
    const F multiplier = S::load(p_.multiplier + to.column), offset = S::load(p_.offset + to.column);
    uint8_t* y = reinterpret_cast<uint8_t*>(to.y + position * p_.y.pitch) + to.column;
    const int32_t zero = p_.y_zero, low = p_.y_low;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const typename S::I q[1] = {S::to_int(S::add(S::mul(t[r][0], multiplier), offset))};
      store_bytes<S, 1>(y + r * p_.y.pitch, q, zero, low);
    }
  } else if constexpr (kShort) {
    epilogue_floats<S, R, 1>(t, to.y + position * p_.y.pitch + to.column * 4, p_.y.pitch, p_.bounds, to.left);
  } else {
    F copy[R][1];  // so that no sum lives in memory above
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) copy[r][0] = t[r][0];
    epilogue<kInt8>(copy, scale, to, position);
  }
}

// R outputs side by side. The taps of an output are added in their order, as everywhere.
template <class S, int kWide>
template <bool kInt8, bool kIndexed, int K, int kStride, int R, int V>
__attribute__((noinline)) void DepthwiseStage<S, kWide>::row_tile(const Source& source, const float* w, int packed,
                                                                  const ConvTarget& to, int64_t position) const {
  constexpr int kFirst = kStride * (R - 1);  // the column of the last output's first tap
  F t[R][V];
  start<kInt8>(t, to);
  const int64_t taps = p_.at.taps, step = packed * S::kLanes;
  const int32_t *first = kIndexed ? index_ + position * taps : nullptr, *last = first + (R - 1) * taps;
  const char *const pad = pad_, *const base = kIndexed ? source.image : source.image + offset_[position];
  for (int64_t tap = 0; tap < taps; tap += K, w += K * step) {
    F weight[K][V];
#pragma GCC unroll 7
    for (int i = 0; i < K; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weight[i][v] = S::load(w + i * step + v * S::kLanes);
    const char* cell = kIndexed ? base : base + source.delta[tap];
    const auto next = [&](int column) __attribute__((always_inline)) {
      if constexpr (!kIndexed) return cell + column * padded_image_.cell;
      const int64_t d =
          column < kFirst ? first[column / kStride * taps + tap + column % kStride] : last[tap + column - kFirst];
      return d < 0 ? pad : base + d;
    };
    if constexpr (V == 1 && K > 3 && S::kRegisters == 32) {  // all outputs take one tap: sums wait for each other less
      F x[kFirst + K];
#pragma GCC unroll 32
      for (int column = 0; column < kFirst + K; ++column) x[column] = number<kInt8>(next(column), 0);
#pragma GCC unroll 7
      for (int i = 0; i < K; ++i)
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r) t[r][0] = S::mul_add(x[r * kStride + i], weight[i][0], t[r][0]);
      continue;
    }
#pragma GCC unroll 32
    for (int column = 0; column < kFirst + K; ++column) {
      const char* from = next(column);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const F x = number<kInt8>(from, v);
#pragma GCC unroll 7
        for (int i = 0; i < K; ++i) {
          const int r = (column - i) / kStride;
          if (column >= i && (column - i) % kStride == 0 && r < R) t[r][v] = S::mul_add(x, weight[i][v], t[r][v]);
        }
      }
    }
  }
  F copy[R][V];  // so that no sum lives in memory above
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) copy[r][v] = t[r][v];
  epilogue<kInt8>(copy, source.scale, to, position);
}

}  // namespace rta
