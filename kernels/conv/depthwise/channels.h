// Depthwise convolution: every channel has a kernel of its own, so that a vector is as many channels of one position.
// Several positions share each weight that was loaded. Where x need not be quantized its rows are read where they are,
// by a table [position][tap] of distances, negative for padding: a padded image would not fit the first-level cache
// beside x and y; and where a kernel is three wide without gaps, each x is loaded once for the three outputs of its row
// that read it. int8 numbers are summed as float32, which is exact for 256 taps. Weights: [tile of up to 4
// vectors][tap][vector][lane], float32. Where a channel has several kernels, the padded image holds it as many times,
// side by side, which is the order of the outputs.
//
// kWide: channels of a group, 1, or a few of as many outputs each. A vector of outputs then reads the same vector of x,
// of which each output takes the channels of its group one after another (groups.h); weights are [tap][channel of the
// group] where they were [tap].
#pragma once

#include "conv/epilogue.h"
#include "conv/padded_image.h"
#include "groups.h"

namespace rta {

template <class S, int kWide = 1>
class DepthwiseStage final : public Stage {
  using F = typename S::F;

 public:
  explicit DepthwiseStage(const StageSpec& spec) : p_(read_layer(spec, 1, 64, 128)) {
    const ConvGeometry& g = p_.at;
    const int64_t element = p_.int8 ? 1 : 4;
    times_ = p_.n / p_.c;
    indexed_ = times_ == 1 && !p_.stream && !p_.quantizes && p_.x_step % 64 == 0;
    padded_image_ = image_of(p_.n * element);
    if (times_ > 1) given_ = image_of(p_.c * element);
    if (padded_image_.bytes >= INT32_MAX || g.in_count * p_.x_step >= INT32_MAX) fail("conv: an image of 2 GiB");
    int32_t* delta = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.taps) * 4));
    for (int64_t t = 0; t < g.taps; ++t)
      delta[t] = static_cast<int32_t>(g.tap_rows[t / g.kernel.x] * padded_image_.row +
                                      t % g.kernel.x * g.dilation.x * padded_image_.cell);
    delta_ = delta;
    int32_t* offset = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.out_count) * 4));
    for (int64_t i = 0; i < g.out_count; ++i) {
      const int64_t at = g.out_steps ? g.out_steps[i] : i;
      offset[i] = static_cast<int32_t>(g.out_rows[at / g.out.x] * padded_image_.row +
                                       at % g.out.x * g.stride.x * padded_image_.cell);
    }
    offset_ = offset;
    if (indexed_) index(spec);
    row_ = g.out.x >= kMostRow ? kMostRow : kLeastRow;
    by_rows_ = kWide == 1 && (g.kernel.x == 3 || g.kernel.x == 5 || g.kernel.x == 7) && g.stride.x < 3 &&
               g.dilation.x == 1 && !g.out_steps && !p_.stream && g.out.x >= kLeastRow;
    const int64_t beyond = g.stride.x * (g.out.x - 1) + 3 - g.padding.x - g.in.x;  // columns of padding on the right
    pads_right_ = beyond > 0;
    square_ = kWide == 1 && indexed_ && g.kernel.x == 3 && g.kernel.y == 3 && g.dilation.x == 1 && g.stride.x < 3 &&
              !g.in_steps && !g.out_steps && g.out.x > 2 && g.padding.x < 2 && beyond < 2;
    pack(spec);
    // The last vector of a ring's last row may be read past it, within the ring's own padding or a copy of it.
    ring_bytes_ = p_.stream ? (p_.ring.steps * padded_image_.cell + 63) / 64 * 64 : 0;
    spec.need_scratch(static_cast<size_t>(p_.stream  ? ring_bytes_ + (g.taps * 4 + 63) / 64 * 64
                                          : indexed_ ? 0
                                                     : padded_image_.bytes + (times_ > 1 ? given_.bytes : 0) + 128));
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  bool updates(int in, int out) const override { return p_.updates(in, out); }
  void start(int id, char* state) const override { p_.start_ring(id, state); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = p_.x.row(run, s * p_.x.steps);
      const char* image = run.scratch;
      const int32_t* delta = delta_;
      float scale = 1.0f;
      if (p_.stream) {
        int32_t* now = reinterpret_cast<int32_t*>(run.scratch + ring_bytes_);
        image = turn_ring<S>(p_, run, s, now);
        if (p_.ring_out.pitch % 64) image = padded_ring(image, run.scratch, now);
        delta = now;
      } else if (indexed_) {
        image = x;
      } else if (times_ == 1) {
        scale = fill_padded_image<S>(p_, padded_image_, run.scratch, x, run.nan_marks + s);
      } else {
        char* given = run.scratch + padded_image_.bytes + 64;
        scale = fill_padded_image<S>(p_, given_, given, x, run.nan_marks + s);
        p_.int8 ? repeat<uint8_t>(given, run.scratch) : repeat<float>(given, run.scratch);
      }
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      const Source from{image, delta, scale};
      if (p_.int8)
        indexed_ ? columns<true, true>(from, y, other) : columns<true, false>(from, y, other);
      else if constexpr (kHasFloat32<S>)
        indexed_ ? columns<false, true>(from, y, other) : columns<false, false>(from, y, other);
    }
  }

 private:
  static constexpr int kTile = kWide == 1 ? 4 : 2;  // vectors of packed weights
  static constexpr int kRows = (S::kRegisters == 32 ? 4 : 2) + (kWide == 1 ? 0 : 2);
  static constexpr int kRowVectors = S::kRegisters == 32 ? 2 : 1;
  static constexpr int kMostRow = 7, kLeastRow = 4;  // outputs side by side: images are often a multiple of 7 wide

  PaddedImage image_of(int64_t channel_bytes) const {
    const int64_t cell = (channel_bytes + 63) / 64 * 64, row = p_.at.reach.x * cell;
    return {cell, row, p_.at.reach.y * row};
  }

  // Each channel of each position as many times as it has kernels.
  template <class T>
  void repeat(const char* from, char* to) const {
    const int64_t cells = p_.at.reach.y * p_.at.reach.x;
    for (int64_t i = 0; i < cells; ++i, from += given_.cell, to += padded_image_.cell) {
      const T* x = reinterpret_cast<const T*>(from);
      T* y = reinterpret_cast<T*>(to);
      if (times_ == 2)
        for (int64_t c = 0; c < p_.c; ++c) y[2 * c] = y[2 * c + 1] = x[c];
      else
        for (int64_t c = 0; c < p_.c; ++c, y += times_)
          for (int64_t k = 0; k < times_; ++k) y[k] = x[c];
    }
  }

  // A ring that is a caller's tensor has no padding to read.
  const char* padded_ring(const char* ring, char* to, int32_t* delta) const {
    for (int64_t r = 0; r < p_.ring.steps; ++r)
      __builtin_memcpy(to + r * padded_image_.cell, ring + r * p_.ring_out.pitch,
                       static_cast<size_t>(p_.ring_out.pitch));
    for (int64_t t = 0; t < p_.at.taps; ++t)
      delta[t] = static_cast<int32_t>(delta[t] / p_.ring_out.pitch * padded_image_.cell);
    return to;
  }

  struct Source {
    const char* image;
    const int32_t* delta;
    float scale;
  };

  template <bool kInt8, bool kIndexed>
  void columns(const Source& from, char* y, const char* other) const {
    const int64_t vectors = (p_.n + S::kLanes - 1) / S::kLanes;
    const float* w = weights_;
    for (int64_t first = 0; first < vectors; first += kTile) {
      if constexpr (kWide == 1)
        if (by_rows_ || (kIndexed && square_)) {
          w = image_rows<kInt8, kIndexed>(from, w,
                                          ConvTarget{y, other, first * S::kLanes, p_.n - first * S::kLanes, true});
          continue;
        }
      const int now = static_cast<int>(vectors - first < kTile ? vectors - first : kTile);
      const ConvTarget at{y, other, first * S::kLanes, p_.n - first * S::kLanes, true};
      const Source part{from.image + first * S::kLanes * (kInt8 ? 1 : 4), from.delta, from.scale};
      if (now == 1) positions<kInt8, kIndexed, 1>(part, w, at);
      if (now == 2) positions<kInt8, kIndexed, 2>(part, w, at);
      if constexpr (kTile == 4) {
        if (now == 3) positions<kInt8, kIndexed, 3>(part, w, at);
        if (now == 4) positions<kInt8, kIndexed, 4>(part, w, at);
      }
      w += p_.at.taps * kSteps<kInt8> * now * S::kLanes;
    }
  }

  template <bool kInt8, bool kIndexed, int V>
  void positions(const Source& from, const float* w, const ConvTarget& at) const {
    const int64_t count = p_.at.out_count;
    int64_t i = 0;
    for (; i + kRows <= count; i += kRows) tile<kInt8, kIndexed, kRows, V>(from, w, at, i);
    if (i < count && count >= kRows) return tile<kInt8, kIndexed, kRows, V>(from, w, at, count - kRows);
    for (; i < count; ++i) tile<kInt8, kIndexed, 1, V>(from, w, at, i);
  }

  // rows.h
  template <bool kInt8, bool kIndexed>
  const float* image_rows(const Source& from, const float* w, const ConvTarget& at) const;
  template <bool kInt8, bool kIndexed, int V>
  void image_row(const Source& from, const float* w, int packed, const ConvTarget& to, int64_t row) const;
  template <bool kInt8, bool kIndexed, int K, int kStride, int V>
  void row_of(const Source& from, const float* w, int packed, const ConvTarget& to, int64_t position) const;
  struct Square {  // three rows of the image, from the first tap of the first output on, which may be padding
    const char* from[3];
    int64_t step[3];
  };
  static constexpr int64_t kNear = 16 << 10;
  template <bool kInt8>
  void square_rows(const Source& from, const float* w, int packed, const ConvTarget& to, int64_t first,
                   int64_t rows) const;
  template <bool kInt8, bool kShort, int kStride>
  void square_row(const Source& from, const F (&weight)[9], const ConvTarget& to, int64_t row) const;
  template <bool kInt8, bool kShort, int kStride, int R>
  void square_tile(const Square& source, const F (&weight)[9], float scale, const ConvTarget& to, int64_t row,
                   int64_t x) const;
  template <bool kInt8, bool kIndexed, int K, int kStride, int R, int V>
  void row_tile(const Source& source, const float* w, int packed, const ConvTarget& to, int64_t position) const;

  template <bool kInt8>
  static inline __attribute__((always_inline)) F number(const char* from, int v) {
    return image_numbers<S, kInt8>(from, v);
  }

  template <bool kInt8, int R, int V>
  inline __attribute__((always_inline)) void start(F (&t)[R][V], const ConvTarget& to) const {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t at = to.column + v * S::kLanes;
      const F first = kInt8 ? S::to_float(S::load_int(p_.start + at)) : S::load(p_.offset + at);
#pragma GCC unroll 7
      for (int r = 0; r < R; ++r) t[r][v] = first;
    }
  }

  // Vectors of packed weights for a tap and a vector of outputs.
  template <bool kInt8>
  static constexpr int kSteps = kInt8 ? GroupBytes<S, kWide>::kSteps : kWide;

  template <bool kInt8, bool kIndexed, int R, int V>
  void tile(const Source& source, const float* w, const ConvTarget& to, int64_t position) const {
    constexpr bool kDots = kInt8 && GroupBytes<S, kWide>::kDots;
    F t[R][V];
    [[maybe_unused]] typename S::I sum[R][V];
    [[maybe_unused]] const GroupBytes<S, kWide> bytes;
    if constexpr (kDots) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v)
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r) sum[r][v] = S::load_int(p_.start + to.column + v * S::kLanes);
    } else {
      start<kInt8>(t, to);
    }
    const char* base[R];
#pragma GCC unroll 7
    for (int r = 0; r < R; ++r) base[r] = source.image + (kIndexed ? 0 : offset_[position + r]);
    const int64_t taps = p_.at.taps;
    const int32_t* index = kIndexed ? index_ + position * taps : nullptr;
    const char* const pad = pad_;
    for (int64_t tap = 0; tap < taps; ++tap, w += kSteps<kInt8> * V * S::kLanes) {
      const char* from[R];
#pragma GCC unroll 7
      for (int r = 0; r < R; ++r) {
        const int64_t d = kIndexed ? index[r * taps + tap] : source.delta[tap];
        from[r] = kIndexed && d < 0 ? pad : base[r] + d;
      }
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        if constexpr (kDots) {
          bytes.template dots<V>(sum, from, w, v);
        } else if constexpr (kWide == 1) {
          const F weight = S::load(w + v * S::kLanes);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) t[r][v] = S::mul_add(number<kInt8>(from[r], v), weight, t[r][v]);
        } else {
          GroupNumbers<S, kWide, kInt8> x[R];
#pragma GCC unroll 7
          for (int r = 0; r < R; ++r) x[r].load(from[r], v);
          each_of<kWide>([&](auto i) __attribute__((always_inline)) {
            const F weight = S::load(w + (i * V + v) * S::kLanes);
#pragma GCC unroll 7
            for (int r = 0; r < R; ++r) t[r][v] = S::mul_add(x[r].template channel<i>(), weight, t[r][v]);
          });
        }
      }
    }
    if constexpr (kDots) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v)
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r) t[r][v] = S::to_float(sum[r][v]);
    }
    epilogue<kInt8>(t, source.scale, to, position);
  }

  template <bool kInt8, int R, int V>
  inline __attribute__((always_inline)) void epilogue(F (&t)[R][V], float scale, const ConvTarget& to,
                                                      int64_t position) const {
    if constexpr (kInt8) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        F multiplier = S::load(p_.multiplier + to.column + v * S::kLanes);
        if (p_.dynamic) multiplier = S::mul(multiplier, S::set(scale));
        const F offset = S::load(p_.offset + to.column + v * S::kLanes);
#pragma GCC unroll 7
        for (int r = 0; r < R; ++r) t[r][v] = S::add(S::mul(t[r][v], multiplier), offset);
      }
    }
    char* y = to.y + position * p_.y.pitch;
    if (p_.plain) return epilogue_floats<S, R, V>(t, y + to.column * 4, p_.y.pitch, p_.bounds, to.left);
    const ConvTarget at{y, to.other ? to.other + position * p_.other.pitch : nullptr, to.column, to.left, to.spills};
    conv_epilogue<S, R, V>(p_, t, at);
  }

  // tables.h
  void index(const StageSpec& spec);
  void pack(const StageSpec& spec);

  ConvLayer p_;
  int64_t times_;  // kernels of a channel
  PaddedImage padded_image_, given_{};
  bool indexed_, by_rows_, square_, pads_right_;
  int row_;  // outputs side by side
  int64_t ring_bytes_;
  const float* weights_;
  const int32_t *delta_, *offset_, *index_ = nullptr;
  const char* pad_ = nullptr;
};

}  // namespace rta

#include "rows.h"
#include "tables.h"
