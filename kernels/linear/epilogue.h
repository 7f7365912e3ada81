// What every linear kernel on the CPU shares: the layer, and the end of a tile of sums. Kernels that leave it to this
// header give the same bits.
#pragma once

#include "_core/stage.h"
#include "_simd/activation.h"
#include "_simd/requantize.h"

namespace rta {

struct LinearLayer {
  GraphIO x, y, row_scale;  // row_scale is absent where the input's scale is static
  int64_t k, n;
  const void* weights;
  const int32_t* compensation;       // int8 [n]
  const float *multiplier, *offset;  // int8 [n]; float32 has the bias in offset
  Activation activation;
  float parameter;
  bool int8_out;
  float y_inv_scale;
  int32_t y_zero, y_low;  // zero point + 128; the least byte: y_zero after a ReLU
  Bounds bounds;          // of an activation that has no more
  bool plain;             // float32 out, and nothing but bounds before it
  bool bounds_alone;      // the activation is bounds, and the scale of y is in the multiplier
  bool bounded;           // int8 in and out, |t| < 2^21 whatever x holds, and nothing but a ReLU before the rounding

  // A row of a scale that is not finite becomes int8 numbers like any other: its sample is marked instead.
  bool marks_samples() const { return int8_out && row_scale.exists(); }
  void mark_samples(const Run& run) const;

  void bound(double most) { bounded = bounded && most < 2097152.0; }  // |t| of one output is at most so much
};

template <class S, int V>
static inline __attribute__((always_inline)) void store_rounded(uint8_t* to, const typename S::F* t, int32_t zero) {
  const auto low = S::set(-512.0f), high = S::set(512.0f);  // the conversion is undefined beyond 2^31
  typename S::I q[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) q[v] = S::to_int(S::max(low, S::min(high, t[v])));
  store_bytes<S, V>(to, q, zero, 0);
}

// Writes R rows of V vectors: as float32, or rounded to bytes.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void write_tile(const LinearLayer& p, const typename S::F (&t)[R][V],
                                                             char* y, int64_t column) {
  // What the loops need is read before they write: a write could, for all the compiler knows, change the layer.
  const int64_t pitch = p.y.pitch, left = p.n - column;
  if (p.int8_out) {
    constexpr int kFirst = V < 4 ? V : 4;
    const int32_t zero = p.y_zero;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      uint8_t* at = reinterpret_cast<uint8_t*>(y + r * pitch) + column;
      store_rounded<S, kFirst>(at, t[r], zero);
      if constexpr (V > 4) store_rounded<S, V - 4>(at + 4 * S::kLanes, t[r] + 4, zero);
    }
  } else {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        float* at = reinterpret_cast<float*>(y + r * pitch) + column + v * S::kLanes;
        if (left >= (v + 1) * S::kLanes)
          S::store(at, t[r][v]);
        else if (left > v * S::kLanes)
          S::store_n(at, t[r][v], static_cast<int>(left) - v * S::kLanes);
      }
  }
}

// The end of a tile whose activation works in registers. False, and nothing is done, where it does not.
template <class S, int R, int V>
static inline __attribute__((always_inline)) bool end_in_registers(const LinearLayer& p, typename S::F (&t)[R][V],
                                                                   char* y, int64_t column) {
  if (p.bounds_alone) {
    const Bounds bounds = p.bounds;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) t[r][v] = bounds.within<S>(t[r][v]);
  } else if (RTA_WANTS_ACTIVATION("leaky_relu") && p.activation == Activation::kLeakyRelu) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) t[r][v] = activate<S>(Activation::kLeakyRelu, p.parameter, t[r][v]);
  } else {
    return false;
  }
  write_tile<S, R, V>(p, t, y, column);
  return true;
}

// The end of so many rows of V vectors that lie in memory, whatever the activation is. Compiled once for all numbers of
// rows: the function takes longer than what each row adds.
template <class S, int V>
RTA_ONE_COPY static void end_in_memory(const LinearLayer& p, float* values, int rows, char* y, int64_t column) {
  activate_in_place<S>(p.activation, p.parameter, values, rows * V);
  const auto inv_scale = S::set(p.y_inv_scale);
  const int64_t pitch = p.y.pitch;
  for (; rows > 0; --rows, values += V * S::kLanes, y += pitch) {
    typename S::F t[1][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      t[0][v] = S::load(values + v * S::kLanes);
      if (p.int8_out) t[0][v] = S::mul(t[0][v], inv_scale);
    }
    write_tile<S, 1, V>(p, t, y, column);
  }
}

// Applies the activation to a tile of R rows by V vectors and writes it. The cheap ones work in registers.
template <class S, int R, int V>
static inline void epilogue(const LinearLayer& p, typename S::F (&t)[R][V], char* y, int64_t column) {
  if (end_in_registers<S, R, V>(p, t, y, column)) return;
  alignas(64) float values[R * V * S::kLanes];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) S::store(values + (r * V + v) * S::kLanes, t[r][v]);
  end_in_memory<S, V>(p, values, R, y, column);
}

// Sums to numbers: float32(sum) * multiplier, times the row's scale where rows have one, + offset; two or three
// roundings. `column` is the first of V whole vectors; row_scale is null or the scale of the first of R rows.
template <class S, int R, int V>
static inline void rescale(const LinearLayer& p, const typename S::I (&sum)[R][V], typename S::F (&t)[R][V],
                           int64_t column, const char* row_scale) {
  using F = typename S::F;
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const F multiplier = S::load(p.multiplier + column + v * S::kLanes);
    const F offset = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const F scale =
          row_scale ? S::mul(multiplier, S::set(*reinterpret_cast<const float*>(row_scale + r * p.row_scale.pitch)))
                    : multiplier;
      t[r][v] = S::add(S::mul(S::to_float(sum[r][v]), scale), offset);
    }
  }
}

// R rows of float32 from sums, with nothing but bounds between, all columns present.
template <class S, int R, int V>
static inline __attribute__((always_inline)) void to_floats(const LinearLayer& p, const typename S::I (&sum)[R][V],
                                                            char* y, int64_t column) {
  const int64_t pitch = p.y.pitch;
  const Bounds bounds = p.bounds;
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const typename S::F multiplier = S::load(p.multiplier + column + v * S::kLanes);
    const typename S::F offset = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
      S::store(reinterpret_cast<float*>(y + r * pitch) + column + v * S::kLanes,
               bounds.within<S>(S::add(S::mul(S::to_float(sum[r][v]), multiplier), offset)));
  }
}

// The general end of `rows` rows of sums [rows][V], 6 at most. Not inlined: it would take registers from the short
// ones. Compiled once for all numbers of rows.
template <class S, int V>
RTA_ONE_COPY static void dequantize(const LinearLayer& p, const typename S::I* sums, int rows, char* y, int64_t column,
                                    const char* row_scale) {
  alignas(64) float values[6 * V * S::kLanes];
  bool ended = true;
  for (int r = 0; r < rows; ++r, sums += V) {
    typename S::F t[1][V];
    rescale<S, 1, V>(p, *reinterpret_cast<const typename S::I(*)[1][V]>(sums), t, column,
                     row_scale ? row_scale + r * p.row_scale.pitch : nullptr);
    ended = end_in_registers<S, 1, V>(p, t, y + r * p.y.pitch, column);
    if (ended) continue;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) S::store(values + (r * V + v) * S::kLanes, t[0][v]);
  }
  if (!ended) end_in_memory<S, V>(p, values, rows, y, column);
}

// Fails for a layer that needs tiles or rows which were left out of this build (wanted.h).
void check_rows(const LinearLayer& p);

template <class S>
static void check_tiles(const LinearLayer& p, int most) {
  const int64_t vectors = (p.n + S::kLanes - 1) / S::kLanes;
  for (int v = 1; v <= most; ++v)
    if (((v == most && vectors > most) || v == (vectors - 1) % most + 1) &&
        !(RTA_WANTS_TILE(S::kLanes, most, v) && RTA_WANTS_END(p.int8_out, S::kLanes, most, v)))
      fail("%lld outputs, for which this was not built", static_cast<long long>(p.n));
  check_rows(p);
}

// Ports, sizes, activation and output of a linear stage; weights, multiplier and offset are the kernel's to fill in.
LinearLayer read_layer(const StageSpec& spec);

// n numbers copied into the arena and zeros up to whole vectors of `lanes`, so that the kernels load whole vectors.
const float* padded_copy(Arena& arena, const float* from, int64_t n, int64_t lanes);
const float* padded_copy(const StageSpec& spec, const float* from, int64_t n, int64_t lanes);  // as packed weights

}  // namespace rta
