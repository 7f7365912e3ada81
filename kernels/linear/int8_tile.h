// R rows by V vectors of int8 weights and inputs.
//
// u = q + 128 is what lies in memory; S::dot sums q + S::kXOffset (128 or 0), and sums start from compensation =
// -(S::kXOffset + zero_point) * sum_k w, so they end as the exact sum of (q - zero_point) * w. What is common ends in
// registers: with nothing but a ReLU before an int8 or a float32 output.
#pragma once

#include "_core/wanted.h"
#include "linear/tile.h"

namespace rta {

template <class S>
struct Int8 {
  using Input = uint8_t;
  using Weight = int8_t;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.int8s("weight", count); }
  static constexpr int kGroup = S::kGroup;
  static constexpr int kStep = S::kWeightBytes;  // bytes of one vector of weights

  // R rows by V vectors; the packed tile holds P vectors for each k, of which these are V.
  template <int R, int V, int P>
  static inline void tile(const LinearLayer& p, const char* w, const char* x, char* y, int64_t column,
                          const char* row_scale, Prefetch ahead) {
    using I = typename S::I;
    constexpr int C = chains<R, V>();
    I acc[C][R][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const I start = S::load_int(p.compensation + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        acc[0][r][v] = start;
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) acc[c][r][v] = S::set_int(0);
      }
    }
    const int64_t groups = (p.k + kGroup - 1) / kGroup;
    const auto step = [&](int c, int64_t g) __attribute__((always_inline)) {
      typename S::X in[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
        in[r] = S::broadcast_x(reinterpret_cast<const uint8_t*>(x + r * p.x.pitch) + g * kGroup);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const typename S::W weight = S::load_w(reinterpret_cast<const int8_t*>(w) + (g * P + v) * kStep);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) acc[c][r][v] = S::dot(acc[c][r][v], in[r], weight);
      }
    };
    int64_t g = 0;
    if constexpr (R > 3 && V == kPartVectors &&
                  RTA_WANTS_FAR_WEIGHTS)  // a loop of its own: asking each time costs the other 1 %
      for (; ahead.weights && g < groups; ++g) {
        step(0, g);
        ahead.fetch<kStep>();
      }
    for (; g + C <= groups; g += C) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) step(c, g + c);
    }
    for (; g < groups; ++g) step(0, g);

#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) acc[0][r][v] = S::add_int(acc[0][r][v], acc[c][r][v]);
    if constexpr (RTA_WANTS_END(true, S::kLanes, S::kTileVectors, P))
      if (p.bounded)
        return requantize<S, R, V>(acc[0], p.multiplier + column, p.offset + column,
                                   reinterpret_cast<uint8_t*>(y) + column, p.y.pitch, p.y_zero, p.y_low);
    if constexpr (RTA_WANTS_END(false, S::kLanes, S::kTileVectors, P))
      if (p.plain && p.n - column >= V * S::kLanes) return to_floats<S, R, V>(p, acc[0], y, column);
    I sum[R][V];  // a copy, so that no sum lives in memory above
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][v] = acc[0][r][v];
    dequantize<S, V>(p, sum[0], R, y, column, row_scale);
  }
};

// Many rows of int8 inputs where a dot product takes 16 bits for each activation and there are 16 registers.
//
// The tile above has 3 rows by 4 vectors of outputs. Their 12 sums, 3 inputs, a weight and a product are one
// register too many, and each pair of inputs is widened for each pair of k. Here rows are widened once for all outputs,
// and a tile is 6 rows by 2 vectors, whose 12 sums, 2 weights, an input and a product fit: 76 instead of 55
// multiply-adds a nanosecond (Zen 3, 2026-11). Weights are packed as there.
template <class S>
class Int8Wide {
 public:
  static constexpr bool kExists = S::kWidens && S::kRegisters == 16;
  static constexpr int kRows = 6;
#ifdef RTA_WANTED
  static constexpr int kLeastRows = 6;  // a program for one model: one size of passes is less code
#else
  static constexpr int kLeastRows = 4;
#endif

  // x: of K inputs; the widened rows of one chunk lie in the scratch of a part.
  Int8Wide(const LinearLayer& layer, int64_t groups)
      : p_(layer), groups_(groups), pitch_((groups * kGroup + 7) / 8 * 8), chunk_(rows_of_chunk()) {}

  size_t scratch_bytes() const { return static_cast<size_t>((chunk_ + kLeastRows - 1) * pitch_) * 2; }

  // Rows row .. row_end - 1, at least kLeastRows of them, of outputs of the packed tiles tile .. tile_end - 1, each of
  // two vectors at least.
  void run(const Run& run, int64_t tile, int64_t tile_end, int64_t row, int64_t row_end) const {
    uint16_t* wide = reinterpret_cast<uint16_t*>(run.scratch);
    while (row < row_end) {
      const int64_t count = row_end - row < chunk_ + kLeastRows ? row_end - row : chunk_;
      for (int64_t r = 0; r < count; ++r) widen(p_.x.row(run, row + r), wide + r * pitch_);
      for (int64_t t = tile; t < tile_end; ++t) tile_of(run, t, wide, row, count);
      row += count;
    }
  }

 private:
  static constexpr int kGroup = S::kGroup, kStep = S::kWeightBytes;
  // Rows and their outputs stay in the first-level cache, as each two vectors of outputs read and write all of them; or
  // in the second-level one, where otherwise many weights would be loaded again for a few rows.
  static constexpr int64_t kFewWeights = 128 << 10, kNear = 20 << 10, kFar = 64 << 10;

  struct Rows {
    const uint16_t* x;
    char* y;
    const char* scale;
  };

  int64_t rows_of_chunk() const {
    const int64_t most = p_.k * p_.n > kFewWeights ? kFar : kNear;
    const int64_t rows = most / (pitch_ * 2 + p_.y.pitch + 1) / kRows * kRows;  // a row may be empty
    return rows < kRows ? kRows : rows;
  }

  // What lies behind the last input is multiplied by weights of 0.
  void widen(const char* row, uint16_t* to) const {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(row);
    int64_t i = 0;
    for (; i + 8 <= p_.k; i += 8) S::widen_u8(from + i, to + i);
    if (i == p_.k) return;
    uint8_t last[8] = {};
    for (int64_t j = i; j < p_.k; ++j) last[j - i] = from[j];
    S::widen_u8(last, to + i);
  }

  void tile_of(const Run& run, int64_t tile, const uint16_t* x, int64_t row, int64_t count) const {
    constexpr int64_t kColumns = S::kTileVectors * S::kLanes;
    const int64_t first = tile * kColumns, left = (p_.n - first + S::kLanes - 1) / S::kLanes;
    const int64_t vectors = left < S::kTileVectors ? left : S::kTileVectors;
    const int8_t* w = static_cast<const int8_t*>(p_.weights) + tile * groups_ * S::kTileVectors * kStep;
    const Rows rows{x, p_.y.row(run, row), p_.row_scale.exists() ? p_.row_scale.row(run, row) : nullptr};
    for (int64_t v = 0; v < vectors; v += 2) {
      if (v + 2 > vectors) v = vectors - 2;  // the last two overlap those before, for little code
      part<2>(w + v * kStep, vectors, rows, count, first + v * S::kLanes);
    }
  }

  template <int V>
  void part(const int8_t* w, int64_t packed, const Rows& all, int64_t count, int64_t column) const {
    for (int64_t row = 0, now; row < count; row += now) {
      // Passes of 6 rows and of 4, for little code: of 5 rows the second repeats three, of 7 one.
      if (count - row < kLeastRows) row = count - kLeastRows;
      const int64_t left = count - row;
      now = left == kRows || left > kRows + 2 ? kRows : kLeastRows;
      const Rows at{all.x + row * pitch_, all.y + row * p_.y.pitch,
                    all.scale ? all.scale + row * p_.row_scale.pitch : nullptr};
      now == kRows ? sums<kRows, V>(w, packed, at, column) : sums<kLeastRows, V>(w, packed, at, column);
    }
  }

  template <int R, int V>
  __attribute__((noinline)) void sums(const int8_t* w, int64_t packed, const Rows& at, int64_t column) const {
    typename S::I sum[R][V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const typename S::I start = S::load_int(p_.compensation + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][v] = start;
    }
    const uint16_t* x = at.x;
    const int64_t pitch = pitch_, step = packed * kStep;
    for (int64_t g = groups_; g > 0; --g, x += kGroup, w += step) {
      typename S::W weight[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weight[v] = S::load_w(w + v * kStep);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const typename S::X in = S::broadcast_wide(x + r * pitch);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = S::dot_wide(sum[r][v], in, weight[v]);
      }
    }
    if (p_.bounded)
      return requantize<S, R, V>(sum, p_.multiplier + column, p_.offset + column,
                                 reinterpret_cast<uint8_t*>(at.y) + column, p_.y.pitch, p_.y_zero, p_.y_low);
    if (p_.plain && p_.n - column >= V * S::kLanes) return to_floats<S, R, V>(p_, sum, at.y, column);
    typename S::I copy[R][V];  // so that no sum lives in memory above
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) copy[r][v] = sum[r][v];
    dequantize<S, V>(p_, copy[0], R, at.y, column, at.scale);
  }

  const LinearLayer& p_;
  int64_t groups_, pitch_, chunk_;
};

}  // namespace rta
