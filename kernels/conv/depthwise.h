// Depthwise convolution: every channel has a kernel of its own, so that a vector is as many channels of one position.
// Several positions share each weight that was loaded. int8 numbers are summed as float32, which is exact for 256 taps.
// Weights: [tile of up to 4 vectors][tap][vector][lane], float32.
#pragma once

#include "canvas.h"
#include "finish.h"
#include "ring.h"

namespace rta {

template <class S>
class DepthwiseStage final : public Stage {
  using F = typename S::F;

 public:
  explicit DepthwiseStage(const StageSpec& spec) : p_(read_layer(spec, 1, 64, 128)) {
    const ConvGeometry& g = p_.at;
    const int64_t element = p_.int8 ? 1 : 4;
    direct_ = !p_.stream && !p_.quantises && !(p_.flat && p_.int8) && !g.in_steps && g.padding.y == 0 && g.padding.x == 0 &&
              g.reach.y <= g.in.y && g.reach.x <= g.in.x && p_.x_step % 64 == 0;
    canvas_.cell = direct_ ? p_.x_step : (p_.c * element + 63) / 64 * 64;
    canvas_.row = (direct_ ? g.in.x : g.reach.x) * canvas_.cell;
    canvas_.bytes = g.reach.y * canvas_.row;
    if (canvas_.bytes + g.in.y * canvas_.row >= INT32_MAX) fail("conv: an image of 2 GiB");
    int32_t* delta = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.taps) * 4));
    for (int64_t t = 0; t < g.taps; ++t)
      delta[t] = static_cast<int32_t>(t / g.kernel.x * g.dilation.y * canvas_.row +
                                      t % g.kernel.x * g.dilation.x * canvas_.cell);
    delta_ = delta;
    int32_t* offset = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.out_count) * 4));
    for (int64_t i = 0; i < g.out_count; ++i) {
      const int64_t at = g.out_steps ? g.out_steps[i] : i;
      offset[i] = static_cast<int32_t>(at / g.out.x * g.stride.y * canvas_.row + at % g.out.x * g.stride.x * canvas_.cell);
    }
    offset_ = offset;
    pack(spec);
    // The last vector of a ring's last row may be read past it, within the ring's own padding or a copy of it.
    ring_bytes_ = p_.stream ? (p_.ring.steps * canvas_.cell + 63) / 64 * 64 : 0;
    spec.need_scratch(static_cast<size_t>(p_.stream ? ring_bytes_ + (g.taps * 4 + 63) / 64 * 64
                                                    : direct_ ? 0 : canvas_.bytes + 64));
  }

  bool marks_samples() const override { return p_.quantises && (!p_.dynamic || p_.int8_out); }

  void start(int id, char* state) const override {
    if (p_.stream && p_.int8 && id == p_.ring_out.id)
      for (int64_t i = 0; i < p_.ring.pitch * p_.ring.steps; ++i) state[i] = static_cast<char>(p_.x_zero);
  }

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
      } else if (direct_) {
        image = x;
      } else {
        scale = fill_canvas<S>(p_, canvas_, run.scratch, x, run.poison + s);
      }
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      if (p_.int8)
        columns<true>(image, delta, scale, y, other);
      else
        columns<false>(image, delta, scale, y, other);
    }
  }

 private:
  static constexpr int kRows = S::kRegisters == 32 ? 4 : 2;

  // A ring that is a caller's tensor has no padding to read.
  const char* padded_ring(const char* ring, char* to, int32_t* delta) const {
    for (int64_t r = 0; r < p_.ring.steps; ++r)
      __builtin_memcpy(to + r * canvas_.cell, ring + r * p_.ring_out.pitch, static_cast<size_t>(p_.ring_out.pitch));
    for (int64_t t = 0; t < p_.at.taps; ++t)
      delta[t] = static_cast<int32_t>(delta[t] / p_.ring_out.pitch * canvas_.cell);
    return to;
  }

  template <bool kInt8>
  void columns(const char* image, const int32_t* delta, float scale, char* y, const char* other) const {
    const int64_t vectors = (p_.c + S::kLanes - 1) / S::kLanes;
    const float* w = weights_;
    for (int64_t first = 0; first < vectors; first += 4) {
      const int now = static_cast<int>(vectors - first < 4 ? vectors - first : 4);
      const ConvTarget at{y, other, first * S::kLanes, p_.c - first * S::kLanes, true};
      const char* from = image + first * S::kLanes * (kInt8 ? 1 : 4);
      switch (now) {
        case 1: positions<kInt8, 1>(from, delta, w, scale, at); break;
        case 2: positions<kInt8, 2>(from, delta, w, scale, at); break;
        case 3: positions<kInt8, 3>(from, delta, w, scale, at); break;
        default: positions<kInt8, 4>(from, delta, w, scale, at);
      }
      w += p_.at.taps * now * S::kLanes;
    }
  }

  template <bool kInt8, int V>
  void positions(const char* image, const int32_t* delta, const float* w, float scale, const ConvTarget& at) const {
    const int64_t count = p_.at.out_count;
    int64_t i = 0;
    for (; i + kRows <= count; i += kRows) tile<kInt8, kRows, V>(image, delta, w, scale, at, i);
    if (i < count && count >= kRows) return tile<kInt8, kRows, V>(image, delta, w, scale, at, count - kRows);
    for (; i < count; ++i) tile<kInt8, 1, V>(image, delta, w, scale, at, i);
  }

  template <bool kInt8, int R, int V>
  void tile(const char* image, const int32_t* delta, const float* w, float scale, const ConvTarget& to,
            int64_t position) const {
    F t[R][V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t at = to.column + v * S::kLanes;
      const F start = kInt8 ? S::to_float(S::load_int(p_.start + at)) : S::load(p_.offset + at);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) t[r][v] = start;
    }
    const char* base[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) base[r] = image + offset_[position + r];
    const int64_t taps = p_.at.taps;
    for (int64_t tap = 0; tap < taps; ++tap, w += V * S::kLanes) {
      const int64_t d = delta[tap];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const F weight = S::load(w + v * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const char* from = base[r] + d;
          F x;
          if constexpr (kInt8)
            x = S::to_float(S::load_u8(reinterpret_cast<const uint8_t*>(from) + v * S::kLanes));
          else
            x = S::load(reinterpret_cast<const float*>(from) + v * S::kLanes);
          t[r][v] = S::mul_add(x, weight, t[r][v]);
        }
      }
    }
    if constexpr (kInt8) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        F multiplier = S::load(p_.multiplier + to.column + v * S::kLanes);
        if (p_.dynamic) multiplier = S::mul(multiplier, S::set(scale));
        const F offset = S::load(p_.offset + to.column + v * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) t[r][v] = S::add(S::mul(t[r][v], multiplier), offset);
      }
    }
    const ConvTarget at{to.y + position * p_.y.pitch, to.other ? to.other + position * p_.other.pitch : nullptr,
                        to.column, to.left, to.spills};
    conv_finish<S, R, V>(p_, t, at);
  }

  void pack(const StageSpec& spec) {
    const int64_t taps = p_.at.taps, vectors = (p_.c + S::kLanes - 1) / S::kLanes;
    const float* floats = p_.int8 ? nullptr : spec.attrs.floats("weight", p_.c * taps);
    const int8_t* bytes = p_.int8 ? spec.attrs.int8s("weight", p_.c * taps) : nullptr;
    float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(taps * vectors * S::kLanes) * 4));
    weights_ = to;
    for (int64_t first = 0; first < vectors; first += 4) {
      const int64_t now = (vectors - first < 4 ? vectors - first : 4) * S::kLanes;
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t i = 0; i < now; ++i, ++to) {
          const int64_t channel = first * S::kLanes + i;
          if (channel < p_.c) *to = bytes ? static_cast<float>(bytes[channel * taps + tap]) : floats[channel * taps + tap];
        }
    }
  }

  ConvLayer p_;
  Canvas canvas_;
  bool direct_;
  int64_t ring_bytes_;
  const float* weights_;
  const int32_t *delta_, *offset_;
};

}  // namespace rta
