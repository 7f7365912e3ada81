// Transposes a square of S::kLanes x S::kLanes float32 in registers: log2(kLanes) rounds of exchanges between pairs of
// vectors, two shuffles each.
#pragma once

#include "_core/stage.h"

namespace rta {

template <int... L>
struct LaneList {};
template <int N>
struct AllLanes;
template <>
struct AllLanes<4> {
  using List = LaneList<0, 1, 2, 3>;
};
template <>
struct AllLanes<8> {
  using List = LaneList<0, 1, 2, 3, 4, 5, 6, 7>;
};
template <>
struct AllLanes<16> {
  using List = LaneList<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
};

// Of two vectors that are W rows apart: exchanges the lanes with bit W of a with those without it of b.
template <int W, class F, int... L>
static inline __attribute__((always_inline)) void exchange(F& a, F& b, LaneList<L...>) {
  constexpr int n = sizeof...(L);
  const F low = __builtin_shufflevector(a, b, ((L & W) ? n + (L ^ W) : L)...);
  b = __builtin_shufflevector(a, b, ((L & W) ? n + L : (L ^ W))...);
  a = low;
}

template <class S, int W>
static inline __attribute__((always_inline)) void exchange_all(typename S::F (&row)[S::kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < S::kLanes; ++i)
    if (!(i & W)) exchange<W>(row[i], row[i + W], typename AllLanes<S::kLanes>::List());
  if constexpr (2 * W < S::kLanes) exchange_all<S, 2 * W>(row);
}

// Lane i: all lanes of row[i], joined by halves: of two rows each time, the halves of one beside those of the other.
template <class S, int W = S::kLanes / 2, class Join>
static inline __attribute__((always_inline)) typename S::F join_rows(typename S::F (&row)[S::kLanes], Join join) {
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) {
    exchange<W>(row[i], row[i + W], typename AllLanes<S::kLanes>::List());
    row[i] = join(row[i], row[i + W]);
  }
  if constexpr (W > 1) return join_rows<S, W / 2>(row, join);
  return row[0];
}

// to[c * to_stride + r] = from[r * from_pitch bytes][c] * scale for c < columns and r < kLanes; 0 for r >= rows.
template <class S>
static inline void transpose_square(const char* from, int64_t from_pitch, int rows, int columns, float scale, float* to,
                                    int64_t to_stride) {
  using F = typename S::F;
  F row[S::kLanes];
  if (rows >= S::kLanes && columns >= S::kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < S::kLanes; ++r) row[r] = S::load(reinterpret_cast<const float*>(from + r * from_pitch));
  } else {
    const int n = columns < S::kLanes ? columns : S::kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < S::kLanes; ++r)
      row[r] = r < rows ? S::load_n(reinterpret_cast<const float*>(from + r * from_pitch), n) : S::set(0.0f);
  }
  exchange_all<S, 1>(row);
  const F factor = S::set(scale);
#pragma GCC unroll 16
  for (int c = 0; c < S::kLanes; ++c)
    if (c < columns) S::store(to + c * to_stride, S::mul(row[c], factor));
}

// The whole matrix of `rows` x `columns`, in squares; to_stride holds a whole number of vectors.
template <class S>
static void transpose(const char* from, int64_t from_pitch, int rows, int columns, float scale, float* to,
                      int64_t to_stride) {
  for (int r = 0; r < rows; r += S::kLanes)
    for (int c = 0; c < columns; c += S::kLanes)
      transpose_square<S>(from + r * from_pitch + c * static_cast<int64_t>(sizeof(float)), from_pitch, rows - r,
                          columns - c, scale, to + c * to_stride + r, to_stride);
}

}  // namespace rta
