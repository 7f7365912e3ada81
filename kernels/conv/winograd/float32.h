// Float32 convolutions of 3 x 3 with stride 1 by Winograd's F(m x m, 3 x 3), and of 3 x 1 and 1 x 3 by F(m, 3), m = 2
// or 4.
//
// A block of tiles (m x m or m outputs each) goes through three steps. What lies between them stays in a second-level
// cache:
//     V[point][tile][channel]   inputs transformed, a vector of channels at a time, straight from x
//     P[point][tile][column]    = V[point] * U[point], a matrix product for each point
//     y                         P transformed back, with bias, residual and activation
// for 64 columns of outputs at a time. The weights U are transformed in float64 when they are packed:
//     [64 columns][point][panel of vectors][channel][lane]
// Every sum over channels is one chain in the order of the channels, and no result depends on how tiles are blocked.
//
// A number that is not finite would spread to a whole tile, and the transform of numbers near the largest float32
// overflows where their sum does not. Both leave an output of the tile that is not finite; then these outputs are
// computed again, as sums of products.
#pragma once

#include "_common/checks.h"
#include "_common/long_sums.h"
#include "conv/epilogue.h"
#include "conv/share.h"
#include "conv/winograd/tiles.h"
#include "conv/winograd/transform.h"
#include "conv/winograd/weights.h"

namespace rta {

template <class S, class Tiles>
class WinogradStage final : public Stage {
  using F = typename S::F;
  static constexpr int m = Tiles::kRight, kDown = Tiles::kDown, kLanes = S::kLanes;
  static constexpr bool kSquare = kDown > 1;
  static constexpr int kIn = m + 2, kInDown = kSquare ? kIn : 1, kPoints = kInDown * kIn, kTaps = kSquare ? 9 : 3;
  using Transform = WinogradTransform<m>;
  static constexpr int kPanel = S::kRegisters >= 32 ? 4 : 2;  // vectors of a panel; times 6 rows, accumulators
  static constexpr int kRows = kWinogradRows;
  static constexpr int64_t kColumns = 64;            // outputs that go through P together
  static constexpr int64_t kBlockBytes = 384 << 10;  // of V and P together, about
  static constexpr int64_t kMostTiles = 96;

 public:
  explicit WinogradStage(const StageSpec& spec) : p_(read_layer(spec, 1, kLanes, 0)) {
    const ConvGeometry& g = p_.at;
    const bool right = g.kernel.y == 1 && g.kernel.x == 3 && g.padding.y == 0 && g.out.y == g.in.y;
    const bool down = g.kernel.y == 3 && g.kernel.x == 1 && g.padding.x == 0 && g.out.x == g.in.x;
    const bool square = g.kernel.y == 3 && g.kernel.x == 3;
    expect(!p_.int8 && !p_.stream && p_.groups == 1 && (kSquare ? square : right || down) && g.stride.y == 1 &&
               g.stride.x == 1 && !g.in_steps && !g.out_steps && !flag(spec.attrs, "by_rows"),
           "Winograd's convolution is float32, of three taps, of all positions");
    vectors_ = (p_.n + kLanes - 1) / kLanes;
    const int64_t columns = vectors_ * kLanes < kColumns ? vectors_ * kLanes : kColumns;
    v_pitch_ = (p_.c + 15) / 16 * 16 + 16;  // no power of two: neighbors would share sets of the cache
    p_pitch_ = (columns + 15) / 16 * 16 + 16;
    tiles_ = {p_.at, p_.x_step, spec.arena->take(static_cast<size_t>(p_.c) * 4)};  // zeros outside
    const int64_t count = tiles_.count(), fit = kBlockBytes / (kPoints * 4 * (v_pitch_ + p_pitch_)) / kRows;
    const int64_t most = fit < 1 ? kRows : fit * kRows < kMostTiles ? fit * kRows : kMostTiles;
    const int64_t blocks = (count + most - 1) / most, each = (count + blocks - 1) / blocks;
    block_ = (each + kRows - 1) / kRows * kRows;
    v_stride_ = odd_lines(block_ * v_pitch_);
    p_stride_ = odd_lines(block_ * p_pitch_);
    pack(spec, spec.attrs.floats("weight", p_.n * p_.c * kTaps));
    spec.need_scratch(static_cast<size_t>(kPoints * (v_stride_ + p_stride_)) * 4);
  }

  // Threads share the tiles; where these are few, groups of columns, each with its weights. Then each thread transforms
  // all inputs: few operations beside those of the products.
  int parts(int64_t) const override { return static_cast<int>(std::max(groups(), tiles_.count() / kRows)); }
  int64_t cost_ns(int64_t samples) const override {
    return samples * products_ns<S>(tiles_.count() * kPoints * p_.c * p_.n, false);
  }

  void run(const Run& run) const override {
    float* v = reinterpret_cast<float*>(run.scratch);
    float* products = v + kPoints * v_stride_;
    const int64_t count = tiles_.count(), columns = vectors_ * kLanes;
    const bool by_columns = count < run.parts * 2 * kRows && run.parts <= groups();
    const Span mine = part_of(count, kRows, by_columns ? 0 : run.part, by_columns ? 1 : run.parts);
    const Span wide = part_of(columns, kColumns, by_columns ? run.part : 0, by_columns ? run.parts : 1);
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = p_.x.row(run, s * p_.x.steps);
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      for (int64_t first = mine.begin; first < mine.end; first += block_) {
        const int64_t tiles = mine.end - first < block_ ? mine.end - first : block_;
        for (int64_t t = 0; t < tiles; ++t) transform(x, first + t, v + t * v_pitch_);
        for (int64_t column = wide.begin; column < wide.end; column += kColumns) {
          const int64_t left = columns - column, width = left < kColumns ? left : kColumns;
          multiply(v, weights_ + column * kPoints * p_.c, products, tiles, width / kLanes);
          for (int64_t t = 0; t < tiles; ++t) {
            const WinogradOutputs made = tiles_.outputs(first + t);
            for (int64_t at = 0; at < width; at += kLanes)
              finish(x, products + t * p_pitch_ + at, first + t, made, column + at, y, other);
          }
        }
      }
    }
  }

 private:
  int64_t groups() const { return (vectors_ * kLanes + kColumns - 1) / kColumns; }

  // An odd number of cache lines, so that the points of a tile fall into different sets.
  static int64_t odd_lines(int64_t floats) { return floats / 16 % 2 ? floats : floats + 16; }

  void transform(const char* x, int64_t tile, float* v) const {
    const float* at[kPoints];
    tiles_.window(x, tile, at);
    int64_t c = 0;
    for (; c + kLanes <= p_.c; c += kLanes) transform<true>(at, c, kLanes, v + c);
    if (c < p_.c) transform<false>(at, c, static_cast<int>(p_.c - c), v + c);
  }

  template <bool whole>
  inline __attribute__((always_inline)) void transform(const float* const (&at)[kPoints], int64_t c, int n,
                                                       float* v) const {
    if constexpr (!kSquare) {
      F d[kIn], t[kIn];
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) d[i] = whole ? S::load(at[i] + c) : S::load_n(at[i] + c, n);
      Transform::template input<S>(d, t);
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) S::store(v + i * v_stride_, t[i]);
    } else {
      F half[kIn][kIn];
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j) {
        F d[kIn], t[kIn];
#pragma GCC unroll 6
        for (int i = 0; i < kIn; ++i) d[i] = whole ? S::load(at[i * kIn + j] + c) : S::load_n(at[i * kIn + j] + c, n);
        Transform::template input<S>(d, t);
#pragma GCC unroll 6
        for (int i = 0; i < kIn; ++i) half[i][j] = t[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) {
        F t[kIn];
        Transform::template input<S>(half[i], t);
#pragma GCC unroll 6
        for (int j = 0; j < kIn; ++j) S::store(v + (i * kIn + j) * v_stride_, t[j]);
      }
    }
  }

  // Rows of V beyond the last tile of a block may be read: what comes of them is not.
  void multiply(const float* v, const float* u, float* products, int64_t tiles, int64_t vectors) const {
    for (int point = 0; point < kPoints; ++point)
      for (int64_t first = 0; first < vectors; first += kPanel) {
        const float* from = v + point * v_stride_;
        float* to = products + point * p_stride_ + first * kLanes;
        const int64_t now = vectors - first < kPanel ? vectors - first : kPanel;
        if (now == kPanel) {
          panel<kPanel>(from, u, to, tiles);
        } else if (now == 1) {
          panel<1>(from, u, to, tiles);
        } else if constexpr (kPanel > 2) {
          if (now == 2)
            panel<2>(from, u, to, tiles);
          else
            panel<3>(from, u, to, tiles);
        }
        u += now * kLanes * p_.c;
      }
  }

  template <int V>
  void panel(const float* v, const float* u, float* to, int64_t tiles) const {
    over_tiles(tiles, [=, this](auto rows, int64_t t) __attribute__((always_inline)) {
      product<decltype(rows)::value, V>(v + t * v_pitch_, u, to + t * p_pitch_);
    });
  }

  template <int R, int V>
  inline __attribute__((always_inline)) void product(const float* v, const float* u, float* to) const {
    F acc[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) acc[r][i] = S::set(0.0f);
    LongSums<S, R, V> all;
    const int64_t channels = p_.c, pitch = v_pitch_;
    for (int64_t c = 0; c < channels;) {
      for (const int64_t end = run_end(c, channels); c < end; ++c, u += V * kLanes) {
        F w[V];
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) w[i] = S::load(u + i * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
          const F in = S::set(v[r * pitch + c]);
#pragma GCC unroll 4
          for (int i = 0; i < V; ++i) acc[r][i] = S::mul_add(w[i], in, acc[r][i]);
        }
      }
      if (c < channels) all.keep(acc);
    }
    all.finish(acc);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) S::store(to + r * p_pitch_ + i * kLanes, acc[r][i]);
  }

  // A vector of columns of a tile: back to outputs, and out.
  inline __attribute__((always_inline)) void finish(const char* x, const float* products, int64_t tile,
                                                    const WinogradOutputs& made, int64_t column, char* y,
                                                    const char* other) const {
    F half[kInDown][m], out[kDown][m];
#pragma GCC unroll 6
    for (int i = 0; i < kInDown; ++i) {
      F p[kIn];
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j) p[j] = S::load(products + (i * kIn + j) * p_stride_);
      Transform::template output<S>(p, half[i]);
    }
    F unlike = S::set(0.0f);  // 0 as long as every output is finite
#pragma GCC unroll 4
    for (int j = 0; j < m; ++j) {
      if constexpr (kSquare) {
        F p[kIn], t[m];
#pragma GCC unroll 6
        for (int i = 0; i < kIn; ++i) p[i] = half[i][j];
        Transform::template output<S>(p, t);
#pragma GCC unroll 4
        for (int i = 0; i < m; ++i) out[i][j] = t[i];
      } else {
        out[0][j] = half[0][j];
      }
#pragma GCC unroll 4
      for (int i = 0; i < kDown; ++i) unlike = S::mul_add(out[i][j], S::set(0.0f), unlike);
    }
    if (!(S::sum_of(unlike) == 0.0f)) again(x, tile, column, out);

    const F bias = S::load(p_.offset + column);
    const int64_t columns = p_.n - column, step = made.right * p_.y.pitch, other_step = made.right * p_.other.pitch;
    for (int64_t i = 0; i < made.rows; ++i) {
      const int64_t position = made.position + i * made.down;
      char* to = y + position * p_.y.pitch;
      const char* from = other ? other + position * p_.other.pitch : nullptr;
      if (simple_ && made.columns == m && columns >= kLanes) {
#pragma GCC unroll 4
        for (int j = 0; j < m; ++j) {
          F t = S::add(out[i][j], bias);
          if (from) t = S::add(t, S::load(reinterpret_cast<const float*>(from + j * other_step) + column));
          S::store(reinterpret_cast<float*>(to + j * step) + column, p_.bounds.within<S>(t));
        }
        continue;
      }
      for (int64_t j = 0; j < made.columns; ++j) {
        F t[1][1] = {{S::add(out[i][j], bias)}};
        const ConvTarget at{to + j * step, from ? from + j * other_step : nullptr, column, columns, true};
        conv_epilogue<S, 1, 1>(p_, t, at);
      }
    }
  }

  // The outputs of a tile as sums of products, two rows at a time, for independent sums.
  __attribute__((noinline)) void again(const char* x, int64_t tile, int64_t column, F (&out)[kDown][m]) const {
    constexpr int kTogether = kSquare ? 2 : 1;
    const float* at[kPoints];
    tiles_.window(x, tile, at);
    for (int top = 0; top < kDown; top += kTogether) {
      F sum[kTogether][m];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether * m; ++i) sum[i / m][i % m] = S::set(0.0f);
      const float* w = plain_ + column * kTaps * p_.c;
      for (int tap = 0; tap < kTaps; ++tap) {
        const float* from[kTogether][m];
#pragma GCC unroll 8
        for (int i = 0; i < kTogether * m; ++i)
          from[i / m][i % m] = at[(top + i / m + tap / 3) * kIn + i % m + tap % 3];
        for (int64_t c = 0; c < p_.c; ++c, w += kLanes) {
          const F weight = S::load(w);
#pragma GCC unroll 8
          for (int i = 0; i < kTogether * m; ++i)
            sum[i / m][i % m] = S::mul_add(weight, S::set(from[i / m][i % m][c]), sum[i / m][i % m]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kTogether * m; ++i) out[top + i / m][i % m] = sum[i / m][i % m];
    }
  }

  void pack(const StageSpec& spec, const float* given) {
    const int64_t columns = vectors_ * kLanes;
    float* to = static_cast<float*>(spec.weights(static_cast<size_t>(columns * p_.c * kPoints) * 4));
    float* plain = static_cast<float*>(spec.weights(static_cast<size_t>(columns * p_.c * kTaps) * 4));
    weights_ = to;
    plain_ = plain;
    if (!spec.packs()) return;
    const WinogradWeights weights{given, p_.n, p_.c, columns};
    weights.template transformed<m, kSquare>(to, kColumns, kPanel * kLanes);
    weights.template plain<kTaps>(plain, kLanes);
  }

  ConvLayer p_;
  Tiles tiles_;
  int64_t vectors_, v_pitch_, p_pitch_, block_, v_stride_, p_stride_;  // of float32, but for the first
  const float *weights_, *plain_;
  bool simple_ = Bounds::are(p_.activation);
};

template <class S>
RTA_ONCE Stage* create_winograd(const StageSpec& spec) {
  const int64_t m = spec.attrs.integer("winograd");
  expect(m == 2 || m == 4, "Winograd's tiles are of 2 or 4");
  if (spec.attrs.integer("kernel_y") == 1 || spec.attrs.integer("kernel_x") == 1) {
    if (m == 2) return new WinogradStage<S, WinogradLine<2>>(spec);
    return new WinogradStage<S, WinogradLine<4>>(spec);
  }
  if (m == 2) return new WinogradStage<S, WinogradTiles<2>>(spec);
  return new WinogradStage<S, WinogradTiles<4>>(spec);
}

}  // namespace rta
