// R rows by V vectors of float32, all of K or a part of it.
#pragma once

#include "_common/long_sums.h"
#include "linear/tile.h"

namespace rta {

template <class S>
struct Float32 {
  using Input = float;
  using Weight = float;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.floats("weight", count); }
  static constexpr int kGroup = 1;
  static constexpr bool kLong = RTA_WANTS("linear", "long sums");  // else plain sums, of any length
  static constexpr int kStep = S::kLanes * static_cast<int>(sizeof(float));

  template <int R, int V, int P>
  static inline void tile(const LinearLayer& p, const char* w, const char* x, char* y, int64_t column, const char*,
                          Prefetch ahead) {
    constexpr bool kMany = R == kMostRows && V > 1 && S::kIsa != Isa::kPortable;
    if constexpr (kMany && RTA_WANTS_END(false, S::kLanes, S::kTileVectors, P))
      if (p.plain && p.k <= kSumRun && p.n - column >= V * S::kLanes && !ahead.weights)
        return plain_tile<R, V>(p, w, P * kStep, x, y, column);
    tile<R, V>(p, w, P * kStep, x, y, column, 0, p.k, nullptr, ahead);
  }

  static constexpr int kMostRows = S::kRegisters * 3 / 4 / kPartVectors;  // of a tile; the last ones may be fewer

  // A tile of what is most common: up to one run of K, nothing but bounds, all columns. Its sums stay in registers from
  // the bias to y. Those of the tile below lie on the stack before and behind the loop, which is a fifth of the time at
  // K = 64.
  template <int R, int V>
  __attribute__((noinline)) static void plain_tile(const LinearLayer& p, const char* w, int64_t each, const char* x,
                                                   char* y, int64_t column) {
    using F = typename S::F;
    F sum[R][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const F bias = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][v] = bias;
    }
    const char* row[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) row[r] = x + r * p.x.pitch;
    for (int64_t k = 0, end = p.k; k < end; ++k, w += each) {
      F in[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) in[r] = S::set(reinterpret_cast<const float*>(row[r])[k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const F weight = S::load(reinterpret_cast<const float*>(w + v * kStep));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) sum[r][v] = S::mul_add(weight, in[r], sum[r][v]);
      }
    }
    const int64_t pitch = p.y.pitch;
    const Bounds bounds = p.bounds;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        S::store(reinterpret_cast<float*>(y + r * pitch) + column + v * S::kLanes, bounds.within<S>(sum[r][v]));
  }

  // The part of a tile with k in [from, to). Its sums are added to those in `carried` [R][V], or to the bias where from
  // is 0, and go back there, or through the epilogue where `to` is the end of K. each: bytes of the packed tile for
  // each k, a number and no type, so that tiles of all widths share the code.
  template <int R, int V>
  __attribute__((noinline)) static void tile(const LinearLayer& p, const char* w, int64_t each, const char* x, char* y,
                                             int64_t column, int64_t from, int64_t to, float* carried, Prefetch ahead) {
    using F = typename S::F;
    constexpr int C = chains<R, V>();
    F acc[C][R][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const F bias = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        acc[0][r][v] = from == 0 ? bias : S::set(0.0f);
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) acc[c][r][v] = S::set(0.0f);
      }
    }
    const auto step = [&](int c, int64_t k) __attribute__((always_inline)) {
      F in[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) in[r] = S::set(reinterpret_cast<const float*>(x + r * p.x.pitch)[k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const F weight = S::load(reinterpret_cast<const float*>(w + k * each + v * kStep));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) acc[c][r][v] = S::mul_add(weight, in[r], acc[c][r][v]);
      }
    };
    const auto join = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
          for (int c = 1; c < C; ++c) {
            acc[0][r][v] = S::add(acc[0][r][v], acc[c][r][v]);
            acc[c][r][v] = S::set(0.0f);
          }
    };
    LongSums<S, R, V> all;
    int64_t k = from;
    while (true) {
      const int64_t end = kLong ? run_end(k, to, C) : to;
      for (; k + C <= end; k += C) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) step(c, k + c);
        ahead.fetch<kStep>();
      }
      if (end == to || !kLong) break;
      join();
      all.keep(acc[0]);
    }
    for (; k < to; ++k) step(0, k);
    join();
    if constexpr (kLong) all.finish(acc[0]);
    if (from != 0) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[0][r][v] = S::add(S::load(carried + (r * V + v) * S::kLanes), acc[0][r][v]);
    }
    if (to == p.k) return epilogue<S, R, V>(p, acc[0], y, column);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) S::store(carried + (r * V + v) * S::kLanes, acc[0][r][v]);
  }
};

}  // namespace rta
