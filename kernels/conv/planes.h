// Convolutions of few outputs over planes: vectors run along the rows of the image, so that a single channel fills
// them.
//
// x becomes lines: float32 rows of the padded image, plane by plane. With a horizontal stride each row is taken apart
// into as many phases, of which every tap reads one, side by side. Float32 planes with stride 1 are lines as they are
// padded, and without padding where they lie. int8 numbers are lines of q - zero point: sums of 512 products are whole
// numbers that float32 holds; of more, parts of 128 go to int32.
//
// A tile is N outputs times V vectors of positions: each x that was loaded serves N outputs, each weight V vectors.
// Weights: [group][block of up to 4 outputs][channel, tap][output], float32.
//
// Floor: out positions * taps * C * N / groups products at the multiply-add peak, where N * V loads wait for none; with
// one output a load for each product is the bound.
#pragma once

#include "_common/long_sums.h"
#include "epilogue.h"
#include "padded_image.h"

namespace rta {

template <class S, bool kInt8>
class PlaneStage final : public Stage {
  using F = typename S::F;
  using I = typename S::I;

 public:
  explicit PlaneStage(const StageSpec& spec) : p_(read_layer(spec, 1, 64, 128)) {
    const ConvGeometry& g = p_.at;
    if (p_.x_step == 4 && p_.c == 1 && !p_.x_planes) {  // one channel, a number after the other
      p_.x_planes = true;
      p_.x_plane = g.in.y * p_.x_row;
    }
    const bool inside = g.padding.y == 0 && g.padding.x == 0 && g.reach.y <= g.in.y && g.reach.x <= g.in.x;
    direct_ = !kInt8 && inside && g.out.x >= S::kLanes;
    const int64_t cell = p_.cell_channels() * (kInt8 ? 1 : 4);
    padded_image_.cell = direct_ ? p_.x_step : cell;
    padded_image_.row = direct_ ? p_.x_row : g.reach.x * cell;
    padded_image_.plane = direct_ ? p_.x_plane : g.reach.y * padded_image_.row;
    padded_image_.bytes = (p_.planes() * g.reach.y * padded_image_.row + 63) / 64 * 64;
    as_padded_ = !kInt8 && p_.x_planes && g.stride.x == 1;
    phase_ = as_padded_ ? 0 : ((g.reach.x + g.stride.x - 1) / g.stride.x + 15) / 16 * 16 + 16;
    line_ = as_padded_ ? padded_image_.row / 4 : g.stride.x * phase_;
    plane_ = as_padded_ ? padded_image_.plane / 4 : g.reach.y * line_;
    if (product(p_.c, plane_, 4) >= INT32_MAX || padded_image_.bytes >= INT32_MAX) fail("conv: an image of 2 GiB");
    short_end_ = !p_.int8_out && (Bounds::are(p_.activation) || p_.activation == Activation::kLeakyRelu);
    lines_at_ = direct_ ? 0 : padded_image_.bytes + 128;
    spec.need_scratch(static_cast<size_t>(lines_at_ + (as_padded_ ? 0 : p_.c * plane_ * 4 + 128)));
    pack(spec);
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* image = p_.x.row(run, s * p_.x.steps);
      float scale = 1.0f;
      if (!direct_) {
        scale = fill_padded_image<S>(p_, padded_image_, run.scratch, image, run.nan_marks + s);
        image = run.scratch;
      }
      const float* lines = reinterpret_cast<const float*>(image);
      if (!as_padded_) {
        float* made = reinterpret_cast<float*>(run.scratch + lines_at_);
        make_lines(image, made);
        lines = made;
      }
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      outputs(lines, scale, {p_.y.row(run, s * p_.y.steps), other});
    }
  }

 private:
  // Products of bytes of which a sum is exact in float32, and in 22 bits.
  static constexpr int kWhole = 512, kPart = 128;
  static constexpr int vectors_of(int n) { return n == 1 ? 8 : n == 2 || (n == 3 && S::kRegisters == 32) ? 4 : 3; }

  struct Target {  // a row of y; of what is added to it, nullptr where there is none
    char* y;
    const char* other;
    Target down(int64_t y_bytes, int64_t other_bytes) const {
      return {y + y_bytes, other ? other + other_bytes : other};
    }
  };

  struct Block {
    const float* w;
    int64_t first;  // output
    float scale;
  };

  // plane_lines.h
  void make_lines(const char* image, float* lines) const;
  void split_lines(const char* image, float* lines) const;
  void one_line(const char* from, float* to, int64_t count) const;

  void outputs(const float* lines, float scale, const Target& y) const {
    const int64_t per_group = p_.n / p_.groups, channels = p_.c / p_.groups;
    const float* w = weights_;
    for (int64_t group = 0; group < p_.groups; ++group)
      for (int64_t first = 0; first < per_group; first += 4) {
        const int now = static_cast<int>(per_group - first < 4 ? per_group - first : 4);
        const Block block{w, group * per_group + first, scale};
        const float* from = lines + group * channels * plane_;
        switch (now) {
          case 1: rows<1>(block, from, y); break;
          case 2: rows<2>(block, from, y); break;
          case 3: rows<3>(block, from, y); break;
          default: rows<4>(block, from, y);
        }
        w += products_ * now;
      }
  }

  template <int N>
  void rows(const Block& block, const float* lines, const Target& y) const {
    constexpr int64_t kTile = vectors_of(N) * S::kLanes;
    const int64_t width = p_.at.out.x;
    for (int64_t row = 0; row < p_.at.out.y; ++row) {
      const float* line = lines + p_.at.out_rows[row] * line_;
      const Target to =
          y.down(block.first * p_.y_plane + row * p_.y_row, block.first * p_.other_plane + row * p_.other_row);
      int64_t i = 0;
      for (; i + kTile <= width; i += kTile) tile<N, vectors_of(N)>(block, line, to, i);
      const int64_t left = (width - i + S::kLanes - 1) / S::kLanes;  // vectors, the last perhaps in part
      if (left == 0) continue;
      if (left * S::kLanes <= width) {  // overlapping what was written
        some<N>(block, line, to, width - left * S::kLanes, static_cast<int>(left));
      } else if (left == 1) {
        tile<N, 1>(block, line, to, 0);
      } else {
        some<N>(block, line, to, 0, static_cast<int>(left - 1));
        tile<N, 1>(block, line, to, width - S::kLanes);
      }
    }
  }

  template <int N>
  void some(const Block& block, const float* line, const Target& to, int64_t i, int vectors) const {
    constexpr int kMost = vectors_of(N);
    switch (vectors) {
      case 1: return tile<N, 1>(block, line, to, i);
      case 2: return tile<N, 2>(block, line, to, i);
      case 3: return tile<N, 3>(block, line, to, i);
      case 4: return tile < N, kMost<4 ? 1 : 4>(block, line, to, i);
      case 5: return tile < N, kMost<8 ? 1 : 5>(block, line, to, i);
      case 6: return tile < N, kMost<8 ? 1 : 6>(block, line, to, i);
      case 7: return tile < N, kMost<8 ? 1 : 7>(block, line, to, i);
      default: return tile<N, kMost>(block, line, to, i);
    }
  }

  template <int N, int V>
  static inline __attribute__((always_inline)) void sum(F (&acc)[N][V], const float* line, const int32_t* delta,
                                                        const float* w, int64_t count) {
    for (int64_t t = 0; t < count; ++t, w += N) {
      const float* from = line + delta[t];
      F x[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) x[v] = S::load(from + v * S::kLanes);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const F weight = S::set(w[n]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[n][v] = S::mul_add(x[v], weight, acc[n][v]);
      }
    }
  }

  template <int N, int V>
  void tile(const Block& block, const float* line, const Target& to, int64_t i) const {
    F acc[N][V];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const F start = S::set(kInt8 ? 0.0f : p_.offset[block.first + n]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[n][v] = start;
    }
    if (products_ <= (kInt8 ? kWhole : kSumRun))
      sum<N, V>(acc, line + i, delta_, block.w, products_);
    else if constexpr (kInt8)
      whole_sums<N, V>(acc, line + i, block.w);
    else
      long_sums<N, V>(acc, line + i, block.w);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if constexpr (kInt8) {
        F multiplier = S::set(p_.multiplier[block.first + n]);
        if (p_.dynamic) multiplier = S::mul(multiplier, S::set(block.scale));
        const F offset = S::set(p_.offset[block.first + n]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[n][v] = S::add(S::mul(acc[n][v], multiplier), offset);
      }
      write<V>(acc[n], to.down(n * p_.y_plane, n * p_.other_plane), i);
    }
  }

  template <int N, int V>
  __attribute__((noinline)) void long_sums(F (&acc)[N][V], const float* line, const float* w) const {
    LongSums<S, N, V> all;
    for (int64_t t = 0; t < products_; t += kSumRun) {
      sum<N, V>(acc, line, delta_ + t, w + t * N, run_end(t, products_) - t);
      all.keep(acc);
    }
    all.finish(acc);
  }

  // Sums of more products than float32 holds exactly.
  template <int N, int V>
  __attribute__((noinline)) void whole_sums(F (&acc)[N][V], const float* line, const float* w) const {
    I whole[N][V];
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < V; ++v) whole[n][v] = S::set_int(0);
    for (int64_t t = 0; t < products_; t += kPart) {
      for (int n = 0; n < N; ++n)
        for (int v = 0; v < V; ++v) acc[n][v] = S::set(0.0f);
      sum<N, V>(acc, line, delta_ + t, w + t * N, products_ - t < kPart ? products_ - t : kPart);
      for (int n = 0; n < N; ++n)
        for (int v = 0; v < V; ++v) whole[n][v] = S::add_int(whole[n][v], S::to_int(acc[n][v]));
    }
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < V; ++v) acc[n][v] = S::to_float(whole[n][v]);
  }

  template <int V>
  inline __attribute__((always_inline)) void write(F (&t)[V], const Target& to, int64_t i) const {
    const int64_t left = p_.at.out.x - i;
    if (!short_end_ || left < V * S::kLanes) return finish<V, 0>(t, to, i);
    float* y = reinterpret_cast<float*>(to.y) + i;
    if (to.other) {
      const float* other = reinterpret_cast<const float*>(to.other) + i;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) t[v] = S::add(t[v], S::load(other + v * S::kLanes));
    }
    if (p_.activation == Activation::kLeakyRelu) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) S::store(y + v * S::kLanes, activate<S>(Activation::kLeakyRelu, p_.parameter, t[v]));
      return;
    }
    const Bounds bounds = p_.bounds;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) S::store(y + v * S::kLanes, bounds.within<S>(t[v]));
  }

  // By up to 4 vectors at a time.
  template <int V, int kFrom>
  void finish(F (&t)[V], const Target& to, int64_t i) const {
    constexpr int kNow = V - kFrom < 4 ? V - kFrom : 4;
    F now[1][kNow];
#pragma GCC unroll 4
    for (int v = 0; v < kNow; ++v) now[0][v] = t[kFrom + v];
    const int64_t at = i + kFrom * S::kLanes;
    conv_epilogue<S, 1, kNow>(p_, now, ConvTarget{to.y, to.other, at, p_.at.out.x - at, false});
    if constexpr (kFrom + kNow < V) finish<V, kFrom + kNow>(t, to, i);
  }

  void pack(const StageSpec& spec) {
    const ConvGeometry& g = p_.at;
    const int64_t channels = p_.c / p_.groups, per_group = p_.n / p_.groups;
    products_ = channels * g.taps;
    int32_t* delta = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(products_) * 4));
    for (int64_t t = 0; t < products_; ++t) {
      const int64_t tap = t % g.taps, across = tap % g.kernel.x * g.dilation.x;
      delta[t] = static_cast<int32_t>(t / g.taps * plane_ + g.tap_rows[tap / g.kernel.x] * line_ +
                                      (as_padded_ ? across : across % g.stride.x * phase_ + across / g.stride.x));
    }
    delta_ = delta;
    const float* floats = kInt8 ? nullptr : spec.attrs.floats("weight", p_.n * products_);
    const int8_t* bytes = kInt8 ? spec.attrs.int8s("weight", p_.n * products_) : nullptr;
    float* to = static_cast<float*>(spec.weights(static_cast<size_t>(p_.n * products_) * 4));
    weights_ = to;
    for (int64_t group = 0; spec.packs() && group < p_.groups; ++group)
      for (int64_t first = 0; first < per_group; first += 4)
        for (int64_t t = 0; t < products_; ++t)
          for (int64_t n = first; n < per_group && n < first + 4; ++n, ++to) {
            const int64_t at = (group * per_group + n) * products_ + t;
            *to = kInt8 ? static_cast<float>(bytes[at]) : floats[at];
          }
  }

  ConvLayer p_;
  PaddedImage padded_image_{};
  bool direct_, as_padded_, short_end_;  // short_end_: float32, with bounds or a slope after a residual
  int64_t phase_, line_, plane_;         // numbers from one phase, line, plane to the next
  int64_t lines_at_, products_ = 0;
  const float* weights_ = nullptr;
  const int32_t* delta_ = nullptr;
};

}  // namespace rta

#include "plane_lines.h"
