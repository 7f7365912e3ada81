// R rows by V vectors of int8 weights and inputs.
//
// u = q + 128 is what lies in memory; S::dot sums q + S::kXOffset (128 or 0), and sums start from compensation =
// -(S::kXOffset + zero_point) * sum_k w, so they end as the exact sum of (q - zero_point) * w. What is common ends in
// registers: with nothing but a ReLU before an int8 or a float32 output.
#pragma once

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
    if constexpr (R > 3 && V == kPartVectors)  // a loop of its own: asking each time costs the other 1 %
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
    if (p.bounded)
      return requantize<S, R, V>(acc[0], p.multiplier + column, p.offset + column,
                                 reinterpret_cast<uint8_t*>(y) + column, p.y.pitch, p.y_zero, p.y_low);
    if (p.plain && p.n - column >= V * S::kLanes) return to_floats<S, R, V>(p, acc[0], y, column);
    I sum[R][V];  // a copy, so that no sum lives in memory above
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][v] = acc[0][r][v];
    dequantize<R, V>(p, sum, y, column, row_scale);
  }

  // The general end. Not inlined: it would take registers from the short one.
  template <int R, int V>
  __attribute__((noinline)) static void dequantize(const LinearLayer& p, const typename S::I (&sum)[R][V], char* y,
                                                   int64_t column, const char* row_scale) {
    typename S::F t[R][V];
    rescale<S, R, V>(p, sum, t, column, row_scale);
    epilogue<S, R, V>(p, t, y, column);
  }
};

}  // namespace rta
