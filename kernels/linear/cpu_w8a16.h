// Linear with int8 weights per output channel and float32 activations, which go through the int8 dot products as two
// planes of bytes (planes.h): exact int32 sums, at twice the operations of int8 activations and the same bytes.
// Converting the weights to float32 instead takes 3 operations for 16 of them, six times as many.
//
//     y = act(float32(256 * high + low) * (row_scale * multiplier) + offset)
//
// Dot products: int8
//
// Floor, 1 x 1024 x 1024: 1 MiB of weights at the bandwidth of the cache that holds them.
#pragma once

#include "linear/float_input.h"
#include "linear/planes.h"

namespace rta {

template <class S>
struct W8A16 {
  using Weight = int8_t;
  using I = typename S::I;
  using F = typename S::F;
  static constexpr int kGroup = S::kGroup;
  static constexpr int kStep = S::kWeightBytes;
  static constexpr bool kQuantizes = true;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.int8s("weight", count); }

  static int64_t pitch(const LinearLayer& p) { return (p.k + 63) / 64 * 64; }

  static void finish(LinearLayer& p, const StageSpec& spec, const Weight* weight) {
    p.multiplier = padded_copy(spec, spec.attrs.floats("multiplier", p.n), p.n, S::kLanes);
    p.offset = padded_copy(spec, spec.attrs.floats("offset", p.n), p.n, S::kLanes);
    const int64_t whole = (p.n + S::kLanes - 1) / S::kLanes * S::kLanes;
    int32_t* compensation = static_cast<int32_t*>(spec.weights(static_cast<size_t>(whole) * sizeof(int32_t)));
    for (int64_t i = 0; spec.packs() && i < p.n; ++i)
      compensation[i] = -S::kXOffset * sums_of(weight + i * p.k, p.k).sum;
    p.compensation = compensation;
    spec.need_scratch(static_cast<size_t>(kBlockRows) * (2 * static_cast<size_t>(pitch(p)) + sizeof(float)));
  }

  static RowsIn prepare(const LinearLayer& p, const Run& run, int64_t first, int64_t count) {
    const int64_t plane = pitch(p);
    uint8_t* planes = reinterpret_cast<uint8_t*>(run.scratch);
    float* scale = reinterpret_cast<float*>(run.scratch + kBlockRows * 2 * plane);
    for (int64_t r = 0; r < count; ++r) {
      const float* x = reinterpret_cast<const float*>(p.x.row(run, first + r));
      scale[r] = split_planes<S>(x, static_cast<int>(p.k), planes + 2 * r * plane, planes + (2 * r + 1) * plane);
      if (!(scale[r] > 0)) run.nan_marks[(first + r) / p.x.steps] = __builtin_nanf("");
    }
    return {run.scratch, 2 * plane, scale};
  }

  template <int R, int V>
  static inline __attribute__((always_inline)) void sums(const LinearLayer& p, const char* w, const RowsIn& in,
                                                         int64_t column, F (&t)[R][V]) {
    I acc[R][2][V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const I start = S::load_int(p.compensation + column + v * S::kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) acc[r][0][v] = acc[r][1][v] = start;
    }
    const uint8_t* x = reinterpret_cast<const uint8_t*>(in.x);
    const int64_t plane = in.pitch / 2, groups = (p.k + kGroup - 1) / kGroup;
    for (int64_t g = 0; g < groups; ++g) {
      typename S::W weight[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) weight[v] = S::load_w(reinterpret_cast<const int8_t*>(w) + (g * V + v) * kStep);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const auto broadcast = S::broadcast_x(x + (2 * r + i) * plane + g * kGroup);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[r][i][v] = S::dot(acc[r][i][v], broadcast, weight[v]);
        }
    }
    const F high_step = S::set(256.0f);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const F multiplier = S::load(p.multiplier + column + v * S::kLanes);
      const F offset = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        const F sum = S::fma(S::to_float(acc[r][0][v]), high_step, S::to_float(acc[r][1][v]));
        t[r][v] = S::add(S::mul(sum, S::mul(multiplier, S::set(in.scale[r]))), offset);
      }
    }
  }
};

static const char* w8a16_reject(const Attrs& attrs) {
  if (!attrs.text_is("weight_dtype", "int8")) return "takes int8 weights";
  return attrs.text_is("input_dtype", "float32") ? nullptr : "takes float32 inputs";
}

template <class S>
RTA_ONCE Stage* create_w8a16(const StageSpec& spec) {
  return new FloatInputStage<S, W8A16<S>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear", "cpu_w8a16", w8a16_reject, create_w8a16<S>);
}

}  // namespace rta
