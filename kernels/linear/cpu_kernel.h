// Linear on the CPU, written once over the vectors S of an instruction set.
//
// Weights are packed into tiles of 4 or 8 vectors of outputs (S::kTileVectors, by measurement), inside a tile by k:
//     [tile][k / group][vector][lane = output][group]
// so that one row times one tile is one ascending stream: broadcast `group` inputs, multiply into the accumulators of
// the tile, next group. A tile with few vectors splits k over several sets of accumulators, so that about 8 are in
// flight and hide the latency of the multiply-add. Several rows share each weight that was loaded: up to 6, in parts of
// 4 vectors, so that the weights pass by once for 6 rows and their stream stays below what the cache gives.
//
// int8: u = q + 128 is what lies in memory, and sums start from compensation = -(128 + zero_point) * sum_k w, so they
// end as the exact sum of (q - zero_point) * w.
//
// Dot products: int8
//
// Floor, 1 x 1024 x 1024 int8: 1 MiB of weights at the bandwidth of the cache that holds them.
#pragma once

#include "activation.h"
#include "stage.h"

namespace rta {

// Many rows take a tile in parts of so many vectors: 6 x 4 accumulators fit 32 registers.
constexpr int kPartVectors = 4;

struct LinearLayer {
  Port x, y, row_scale;  // row_scale is absent where the input's scale is static
  int64_t k, n;
  const void* weights;
  const int32_t* compensation;       // int8 [n]
  const float *multiplier, *offset;  // int8 [n]; float32 has the bias in offset
  Activation activation;
  float parameter;
  bool int8_out;
  float y_inv_scale;
  int32_t y_zero;  // zero point + 128
};

// Applies the activation to a tile of R rows by V vectors and writes it. The cheap ones work in registers.
template <class S, int R, int V>
static inline void epilogue(const LinearLayer& p, typename S::F (&t)[R][V], char* y, int64_t column) {
  using F = typename S::F;
  if (p.activation == Activation::kRelu) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) t[r][v] = S::max(S::set(0.0f), t[r][v]);
  } else if (p.activation == Activation::kLeakyRelu) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) t[r][v] = activate<S>(Activation::kLeakyRelu, p.parameter, t[r][v]);
  } else if (p.activation != Activation::kNone) {
    alignas(64) float values[R * V * S::kLanes];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) S::store(values + (r * V + v) * S::kLanes, t[r][v]);
    activate_in_place<S>(p.activation, p.parameter, values, R * V);
    const F inv_scale = S::set(p.y_inv_scale);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        t[r][v] = S::load(values + (r * V + v) * S::kLanes);
        if (p.int8_out) t[r][v] = S::mul(t[r][v], inv_scale);
      }
  }
  // What the loops need is read before they write: a write could, for all the compiler knows, change the layer.
  const int64_t pitch = p.y.pitch, left = p.n - column;
  if (p.int8_out) {
    const auto zero = S::set_int(p.y_zero);
    const F low = S::set(-512.0f), high = S::set(512.0f);  // the conversion is undefined beyond 2^31
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        S::store_u8(reinterpret_cast<uint8_t*>(y + r * pitch) + column + v * S::kLanes,
                    S::add_int(S::to_int(S::max(low, S::min(high, t[r][v]))), zero));
  } else {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        float* at = reinterpret_cast<float*>(y + r * pitch) + column + v * S::kLanes;
        if (left >= (v + 1) * S::kLanes)
          S::store(at, t[r][v]);
        else
          S::store_n(at, t[r][v], static_cast<int>(left) - v * S::kLanes);
      }
  }
}

// Sets of accumulators over k, so that about 8 independent sums are in flight.
template <int R, int V>
constexpr int chains() {
  return R * V >= 6 ? 1 : R * V >= 3 ? 2 : 4;
}

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
                          const char* row_scale) {
    using I = typename S::I;
    using F = typename S::F;
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
    for (; g + C <= groups; g += C) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) step(c, g + c);
    }
    for (; g < groups; ++g) step(0, g);

    F t[R][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const F multiplier = S::load(p.multiplier + column + v * S::kLanes);
      const F offset = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        I sum = acc[0][r][v];
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) sum = S::add_int(sum, acc[c][r][v]);
        const F scale =
            row_scale ? S::mul(multiplier, S::set(*reinterpret_cast<const float*>(row_scale + r * p.row_scale.pitch)))
                      : multiplier;
        t[r][v] = S::add(S::mul(S::to_float(sum), scale), offset);
      }
    }
    epilogue<S, R, V>(p, t, y, column);
  }
};

template <class S>
struct Float32 {
  using Input = float;
  using Weight = float;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.floats("weight", count); }
  static constexpr int kGroup = 1;
  static constexpr int kStep = S::kLanes * static_cast<int>(sizeof(float));

  template <int R, int V, int P>
  static inline void tile(const LinearLayer& p, const char* w, const char* x, char* y, int64_t column, const char*) {
    using F = typename S::F;
    constexpr int C = chains<R, V>();
    F acc[C][R][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const F start = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        acc[0][r][v] = start;
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
        const F weight = S::load(reinterpret_cast<const float*>(w + (k * P + v) * kStep));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) acc[c][r][v] = S::mul_add(weight, in[r], acc[c][r][v]);
      }
    };
    int64_t k = 0;
    for (; k + C <= p.k; k += C) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) step(c, k + c);
    }
    for (; k < p.k; ++k) step(0, k);
    F t[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        t[r][v] = acc[0][r][v];
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) t[r][v] = S::add(t[r][v], acc[c][r][v]);
      }
    epilogue<S, R, V>(p, t, y, column);
  }
};

template <class S, template <class> class Kind>
class LinearStage final : public Stage {
 public:
  explicit LinearStage(const StageSpec& spec);
  void run(const Run& run) const override {
    const char* w = static_cast<const char*>(layer_.weights);
    const int64_t groups = (layer_.k + Kind<S>::kGroup - 1) / Kind<S>::kGroup;
    for (int64_t column = 0; column < layer_.n; column += S::kTileVectors * S::kLanes) {
      const int64_t left = (layer_.n - column + S::kLanes - 1) / S::kLanes;
      const int vectors = static_cast<int>(left < S::kTileVectors ? left : S::kTileVectors);
      switch (vectors) {
        case 1: rows<1>(run, w, column); break;
        case 2: rows<2>(run, w, column); break;
        case 3: rows<3>(run, w, column); break;
        case 4: rows<4>(run, w, column); break;
        default:
          if constexpr (S::kTileVectors == 8) {
            switch (vectors) {
              case 5: rows<5>(run, w, column); break;
              case 6: rows<6>(run, w, column); break;
              case 7: rows<7>(run, w, column); break;
              default: rows<8>(run, w, column);
            }
          }
      }
      w += groups * vectors * Kind<S>::kStep;
    }
  }

 private:
  struct Cursor {  // where the running rows are
    const char *x, *scale;
    char* y;
  };

  template <int V>
  void rows(const Run& run, const char* w, int64_t column) const {
    Cursor at{run.at[layer_.x.id], layer_.row_scale.exists() ? run.at[layer_.row_scale.id] : nullptr,
              run.at[layer_.y.id]};
    int64_t left = layer_.x.rows(run);
    while (left > 0) {
      // As few passes over the weights as the registers allow, and no last pass for a single row where it can be
      // helped.
      const int now = static_cast<int>(left <= kRows                            ? left
                                       : left == kRows + 1 || left == kRows + 2 ? (left + 1) / 2
                                                                                : kRows);
      switch (now) {
        case 1: block<1, V>(at, w, column); break;
        case 2: block<2, V>(at, w, column); break;
        case 3: block<3, V>(at, w, column); break;
        case 4: block<4 < kRows ? 4 : kRows, V>(at, w, column); break;
        case 5: block<5 < kRows ? 5 : kRows, V>(at, w, column); break;
        default: block<kRows, V>(at, w, column);
      }
      at.x += now * layer_.x.pitch;
      at.y += now * layer_.y.pitch;
      if (at.scale) at.scale += now * layer_.row_scale.pitch;
      left -= now;
    }
  }

  // R rows of a whole tile: at once where its accumulators fit the registers, else in two parts.
  template <int R, int V>
  void block(const Cursor& at, const char* w, int64_t column) const {
    if constexpr (R * V <= kAccumulators || V <= kPartVectors) {
      Kind<S>::template tile<R, V, V>(layer_, w, at.x, at.y, column, at.scale);
    } else {
      constexpr int kRest = V - kPartVectors;
      Kind<S>::template tile<R, kPartVectors, V>(layer_, w, at.x, at.y, column, at.scale);
      Kind<S>::template tile<R, kRest, V>(layer_, w + kPartVectors * Kind<S>::kStep, at.x, at.y,
                                          column + kPartVectors * S::kLanes, at.scale);
    }
  }

  static constexpr int kAccumulators = S::kRegisters * 3 / 4;
  static constexpr int kRows = kAccumulators / kPartVectors;  // 6 with 32 registers, 3 with 16

  LinearLayer layer_;
};

// Copies n numbers into the arena, zero up to whole tiles, so that the kernels load whole vectors.
template <class S, class T>
static T* padded(Arena& arena, int64_t n) {
  const int64_t whole = (n + S::kLanes - 1) / S::kLanes * S::kLanes;
  return static_cast<T*>(arena.take(static_cast<size_t>(whole) * sizeof(T)));
}

template <class S, template <class> class Kind>
LinearStage<S, Kind>::LinearStage(const StageSpec& spec) {
  constexpr bool int8 = sizeof(typename Kind<S>::Input) == 1;
  LinearLayer& p = layer_;
  const Attrs& attrs = spec.attrs;
  p.x = spec.in(0);
  p.y = spec.out(0);
  p.row_scale = spec.in(1);
  p.k = spec.input(0).width;
  p.n = spec.output(0).width;
  p.activation = parse_activation(attrs.text("activation"));
  p.parameter = static_cast<float>(attrs.real("activation_parameter"));
  p.int8_out = spec.output(0).dtype == RTA_INT8;
  if (spec.input(0).dtype != (int8 ? RTA_INT8 : RTA_FLOAT32)) fail("linear: input and weight have different dtypes");
  if (!int8 && p.int8_out) fail("linear: float32 weights have no int8 output");

  constexpr int group = Kind<S>::kGroup, lanes = S::kLanes;
  using Weight = typename Kind<S>::Weight;
  const int64_t groups = (p.k + group - 1) / group, vectors = (p.n + lanes - 1) / lanes;
  Weight* packed = static_cast<Weight*>(spec.arena->take(static_cast<size_t>(groups * vectors * Kind<S>::kStep)));
  p.weights = packed;
  const Weight* weight = Kind<S>::weights(attrs, p.n * p.k);
  for (int64_t tile = 0; tile < p.n; tile += S::kTileVectors * lanes) {
    const int64_t left = (p.n - tile + lanes - 1) / lanes, width = left < S::kTileVectors ? left : S::kTileVectors;
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t column = tile; column < tile + width * lanes; ++column)
        for (int64_t k = g * group; k < (g + 1) * group; ++k, ++packed)
          if (column < p.n && k < p.k) *packed = weight[column * p.k + k];
  }
  float* offset = padded<S, float>(*spec.arena, p.n);
  const float* given = attrs.floats(int8 ? "offset" : "bias", p.n);
  for (int64_t i = 0; i < p.n; ++i) offset[i] = given[i];
  p.offset = offset;
  p.compensation = nullptr;
  p.multiplier = nullptr;
  if constexpr (int8) {
    p.y_inv_scale = static_cast<float>(attrs.real("y_inv_scale"));
    p.y_zero = static_cast<int32_t>(attrs.integer("y_zero_point")) + 128;
    float* multiplier = padded<S, float>(*spec.arena, p.n);
    int32_t* compensation = padded<S, int32_t>(*spec.arena, p.n);
    const float* scale = attrs.floats("multiplier", p.n);
    const int64_t zero = attrs.integer("x_zero_point") + 128;
    for (int64_t i = 0; i < p.n; ++i) {
      int64_t sum = 0;
      for (int64_t k = 0; k < p.k; ++k) sum += weight[i * p.k + k];
      multiplier[i] = scale[i];
      compensation[i] = static_cast<int32_t>(-zero * sum);
    }
    p.multiplier = multiplier;
    p.compensation = compensation;
  }
}

static const char* linear_reject(const Attrs& attrs) {
  if (attrs.text_is("weight_dtype", "float32") || attrs.text_is("weight_dtype", "int8")) return nullptr;
  return "takes float32 and int8 weights";
}

template <class S>
Stage* create_linear(const StageSpec& spec) {
  if (spec.attrs.text_is("weight_dtype", "float32")) return new LinearStage<S, Float32>(spec);
  return new LinearStage<S, Int8>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear", "cpu", linear_reject, create_linear<S>);
}

}  // namespace rta
