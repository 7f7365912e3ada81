// The end of a block of sums: residual, activation, rounding to int8, and the write to y.
#pragma once

#include "_simd/requantize.h"
#include "layer.h"

namespace rta {

// Where a block goes: R rows of y, V vectors from `column` on, of which `left` columns exist. spills: whole vectors may
// be written past them, because what lies there is padding or is written later; never another position's, which threads
// share.
struct ConvTarget {
  char* y;
  const char* other;
  int64_t column, left;
  bool spills;
};

template <class S, int V>
static inline void write_bytes(uint8_t* to, const typename S::I (&v)[V], int32_t zero, int32_t low,
                               const ConvTarget& at) {
  if (at.spills || at.left >= V * S::kLanes) return store_bytes<S, V>(to, v, zero, low);
  alignas(64) uint8_t bytes[V * S::kLanes];
  store_bytes<S, V>(bytes, v, zero, low);
  for (int i = 0; i < at.left; ++i) to[i] = bytes[i];
}

// R rows of float32 within bounds, all columns present.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void epilogue_floats(typename S::F (&t)[R][V], char* y, int64_t pitch,
                                                                  Bounds bounds) {
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      t[r][v] = bounds.within<S>(t[r][v]);
      S::store(reinterpret_cast<float*>(y + r * pitch) + v * S::kLanes, t[r][v]);
    }
}

// The same where perhaps not all columns of the last vector are present. `left` of all are, at least one of it.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void epilogue_floats(typename S::F (&t)[R][V], char* y, int64_t pitch,
                                                                  Bounds bounds, int64_t left) {
  if (left >= V * S::kLanes) return epilogue_floats<S, R, V>(t, y, pitch, bounds);
  const int last = static_cast<int>(left - (V - 1) * S::kLanes);
#pragma GCC unroll 7
  for (int r = 0; r < R; ++r) {
    float* to = reinterpret_cast<float*>(y + r * pitch);
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) S::store(to + v * S::kLanes, bounds.within<S>(t[r][v]));
    S::store_n(to + (V - 1) * S::kLanes, bounds.within<S>(t[r][V - 1]), last);
  }
}

// The general end of `rows` rows of V vectors, kMostEndRows at most. Not inlined: kernels have short ends of their own
// for what is common. Compiled once for all numbers of rows.
constexpr int kMostEndRows = 8;
template <class S, int V>
RTA_ONE_COPY static void conv_end(const ConvLayer& p, typename S::F (*t)[V], int rows, const ConvTarget& at) {
  using F = typename S::F;
  using I = typename S::I;
  const int64_t pitch = p.y.pitch;
  if (p.int8_out && p.bounded) {
    const int32_t zero = p.y_zero, low = p.y_low;
    for (int r = 0; r < rows; ++r) {
      I v[V];
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) v[i] = S::to_int(t[r][i]);
      write_bytes<S, V>(reinterpret_cast<uint8_t*>(at.y + r * pitch) + at.column, v, zero, low, at);
    }
    return;
  }
  if (at.other) {
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < V; ++v) {
        const float* from = reinterpret_cast<const float*>(at.other + r * p.other.pitch) + at.column + v * S::kLanes;
        const int64_t n = at.left - v * S::kLanes;
        if (n <= 0) break;  // of the columns, none is in this vector
        t[r][v] = S::add(t[r][v], n >= S::kLanes ? S::load(from) : S::load_n(from, static_cast<int>(n)));
      }
  }
  if (Bounds::are(p.activation)) {
    const Bounds bounds = p.bounds;
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < V; ++v) t[r][v] = bounds.within<S>(t[r][v]);
  } else if (p.activation == Activation::kLeakyRelu) {
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < V; ++v) t[r][v] = activate<S>(Activation::kLeakyRelu, p.parameter, t[r][v]);
  } else {
    alignas(64) float values[kMostEndRows * V * S::kLanes];
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < V; ++v) S::store(values + (r * V + v) * S::kLanes, t[r][v]);
    activate_in_place<S>(p.activation, p.parameter, values, rows * V);
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < V; ++v) t[r][v] = S::load(values + (r * V + v) * S::kLanes);
  }
  if (p.int8_out) {
    const F low = S::set(-512.0f), high = S::set(512.0f), inverse = S::set(p.scales_last ? p.y_inv_scale : 1.0f);
    const int32_t zero = p.y_zero;
    for (int r = 0; r < rows; ++r) {
      I v[V];
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) v[i] = S::to_int(S::max(low, S::min(high, S::mul(t[r][i], inverse))));
      write_bytes<S, V>(reinterpret_cast<uint8_t*>(at.y + r * pitch) + at.column, v, zero, 0, at);
    }
    return;
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < V; ++v) {
      float* to = reinterpret_cast<float*>(at.y + r * pitch) + at.column + v * S::kLanes;
      const int64_t n = at.left - v * S::kLanes;
      if (n >= S::kLanes)
        S::store(to, t[r][v]);
      else
        S::store_n(to, t[r][v], static_cast<int>(n));
    }
}

template <class S, int R, int V>
static inline void conv_epilogue(const ConvLayer& p, typename S::F (&t)[R][V], const ConvTarget& at) {
  static_assert(R <= kMostEndRows, "a buffer of conv_end has room for these");
  conv_end<S, V>(p, t, R, at);
}

// Sums of an int8 layer to y: R rows of V vectors, whose multipliers and offsets start at `params`. scale: of x, where
// it is dynamic.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void int8_outputs(const ConvLayer& p, const typename S::I (&sum)[R][V],
                                                               int64_t params, float scale, const ConvTarget& at) {
  if (p.int8_out && p.bounded && (at.spills || at.left >= V * S::kLanes)) {
    return requantize<S, R, V>(sum, p.multiplier + params, p.offset + params,
                               reinterpret_cast<uint8_t*>(at.y) + at.column, p.y.pitch, p.y_zero, p.y_low);
  }
  typename S::F t[R][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    typename S::F multiplier = S::load(p.multiplier + params + v * S::kLanes);
    if (p.dynamic) multiplier = S::mul(multiplier, S::set(scale));
    const typename S::F offset = S::load(p.offset + params + v * S::kLanes);
#pragma GCC unroll 7
    for (int r = 0; r < R; ++r) t[r][v] = S::add(S::mul(S::to_float(sum[r][v]), multiplier), offset);
  }
  conv_epilogue<S, R, V>(p, t, at);
}

}  // namespace rta
