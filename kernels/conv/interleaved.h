// Depthwise convolution of int8 with AVX-512 VNNI: the bytes of 4 rows of the image are interleaved, so that a vector
// holds 4 rows of 16 channels, and one dot product does 4 taps of them. Where the kernel is lower than 4 rows and moves by
// one, neighbouring output rows use the same interleaved rows with shifted weights: 3 rows as (w0, w1, w2, 0) and
// (0, w0, w1, w2). A kernel of one row lies on its side.
//
// Interleaving within 128 bits leaves vector v, lane i of 64 channels as channel 16 (i / 4) + 4 v + i % 4. Packing to
// bytes undoes that by itself; weights, multiplier and offset are stored in this order.
#pragma once

#include "canvas.h"
#include "finish.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace rta {

template <class S>
class InterleavedStage final : public Stage {
  using F = typename S::F;
  using I = typename S::I;

 public:
  explicit InterleavedStage(const StageSpec& spec) : p_(read_layer(spec, 1, 64, 128)) {
    const ConvGeometry& g = p_.at;
    direct_ = !p_.quantises && !p_.flat && !g.in_steps && g.padding.y == 0 && g.padding.x == 0 && g.reach.y <= g.in.y &&
              g.reach.x <= g.in.x;
    canvas_.cell = direct_ ? p_.x_step : (p_.c + 63) / 64 * 64;
    canvas_.row = (direct_ ? g.in.x : g.reach.x) * canvas_.cell;
    canvas_.bytes = g.reach.y * canvas_.row;
    if (canvas_.bytes >= INT32_MAX) fail("conv: an image of 2 GiB");
    sideways_ = g.kernel.y == 1;
    down_ = axis(g, sideways_);
    across_ = axis(g, !sideways_);
    deep_ = (down_.kernel + 3) / 4;
    shifts_ = down_.kernel <= 4 && down_.stride == 1 && down_.dilation == 1 ? 5 - down_.kernel : 1;
    columns_bytes_ = deep_ * across_.reach * 256;
    pack(spec);
    spec.need_scratch(static_cast<size_t>(columns_bytes_ + (direct_ ? 0 : canvas_.bytes + 64)));
  }

  bool marks_samples() const override { return p_.quantises && (!p_.dynamic || p_.int8_out); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* image = p_.x.row(run, s * p_.x.steps);
      float scale = 1.0f;
      if (!direct_) {
        char* canvas = run.scratch + columns_bytes_;
        scale = fill_canvas<S>(p_, canvas_, canvas, image, run.poison + s);
        image = canvas;
      }
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      for (int64_t block = 0; block * 64 < p_.c; ++block) {
        for (int64_t o = 0; o < down_.out; o += shifts_) {
          interleave(image + block * 64, run.scratch, o);
          for (int64_t shift = 0; shift < shifts_ && o + shift < down_.out; ++shift)
            line(run.scratch, block, o + shift, shift, scale, y, other);
        }
      }
    }
  }

 private:
  struct Axis {
    int64_t kernel, stride, dilation, out, reach, image_step, out_step;
  };

  Axis axis(const ConvGeometry& g, bool horizontal) const {
    if (horizontal) return {g.kernel.x, g.stride.x, g.dilation.x, g.out.x, g.reach.x, canvas_.cell, 1};
    return {g.kernel.y, g.stride.y, g.dilation.y, g.out.y, g.reach.y, canvas_.row, g.out.x};
  }

  void interleave(const char* image, char* to, int64_t o) const {
    const int64_t last = down_.reach - 1;
    for (int64_t d = 0; d < deep_; ++d) {
      const char* row[4];
      for (int64_t j = 0; j < 4; ++j) {  // below the image weights are zero: any row will do
        const int64_t at = o * down_.stride + (4 * d + j) * down_.dilation;
        row[j] = image + (at < last ? at : last) * down_.image_step;
      }
      for (int64_t i = 0; i < across_.reach; ++i, to += 256) {
        const int64_t at = i * across_.image_step;
        const I r0 = load(row[0] + at), r1 = load(row[1] + at), r2 = load(row[2] + at), r3 = load(row[3] + at);
        const I low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
        const I low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
        _mm512_store_si512(to, _mm512_unpacklo_epi16(low01, low23));
        _mm512_store_si512(to + 64, _mm512_unpackhi_epi16(low01, low23));
        _mm512_store_si512(to + 128, _mm512_unpacklo_epi16(high01, high23));
        _mm512_store_si512(to + 192, _mm512_unpackhi_epi16(high01, high23));
      }
    }
  }

  static I load(const char* p) { return _mm512_loadu_si512(p); }

  // One line of outputs for 64 channels.
  void line(const char* columns, int64_t block, int64_t o, int64_t shift, float scale, char* y, const char* other) const {
    const char* w = weights_ + (block * shifts_ + shift) * deep_ * across_.kernel * 256;
    const int64_t step = across_.out_step, start = o * down_.out_step;
    const ConvTarget at{y, other, block * 64, p_.c - block * 64, true};
    int64_t i = 0;
    const int64_t count = across_.out;
    for (; i + 4 <= count; i += 4) tile<4>(columns, w, i, scale, at, start + i * step);
    switch (count - i) {
      case 3: tile<3>(columns, w, i, scale, at, start + i * step); break;
      case 2: tile<2>(columns, w, i, scale, at, start + i * step); break;
      case 1: tile<1>(columns, w, i, scale, at, start + i * step); break;
      default: break;
    }
  }

  template <int R>
  inline void tile(const char* columns, const char* w, int64_t first, float scale, const ConvTarget& to,
                   int64_t position) const {
    I acc[R][4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const I start = S::load_int(start_ + to.column + 16 * v);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][v] = start;
    }
    const int64_t between = across_.stride * 256;
    for (int64_t d = 0; d < deep_; ++d) {
      const char* x = columns + (d * across_.reach + first * across_.stride) * 256;
      for (int64_t t = 0; t < across_.kernel; ++t, x += across_.dilation * 256, w += 256) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          const I weight = _mm512_load_si512(w + 64 * v);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) acc[r][v] = S::dot(acc[r][v], load(x + r * between + 64 * v), weight);
        }
      }
    }
    const int64_t step = across_.out_step;
    F t[R][4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      F multiplier = S::load(multiplier_ + to.column + 16 * v);
      if (p_.dynamic) multiplier = S::mul(multiplier, S::set(scale));
      const F offset = S::load(offset_ + to.column + 16 * v);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) t[r][v] = S::add(S::mul(S::to_float(acc[r][v]), multiplier), offset);
    }
    if (p_.int8_out && p_.bounded) {
      const I zero = _mm512_set1_epi16(static_cast<int16_t>(p_.y_zero));
      const I low = _mm512_set1_epi8(static_cast<char>(p_.y_low));
      char* at = to.y + position * p_.y.pitch + to.column;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const I a = _mm512_packs_epi32(S::to_int(t[r][0]), S::to_int(t[r][1]));
        const I b = _mm512_packs_epi32(S::to_int(t[r][2]), S::to_int(t[r][3]));
        const I bytes = _mm512_packus_epi16(_mm512_adds_epi16(a, zero), _mm512_adds_epi16(b, zero));
        _mm512_storeu_si512(at + r * step * p_.y.pitch, _mm512_max_epu8(bytes, low));
      }
      return;
    }
    for (int r = 0; r < R; ++r) {
      F natural[1][4];
      in_order(t[r], natural[0]);
      const int64_t row = position + r * step;
      const ConvTarget at{to.y + row * p_.y.pitch, to.other ? to.other + row * p_.other.pitch : nullptr, to.column,
                          to.left, true};
      finish4(natural, at);
    }
  }

  // One to four of the vectors exist.
  void finish4(F (&t)[1][4], const ConvTarget& at) const {
    if (p_.int8_out || at.left >= 64) return conv_finish<S, 1, 4>(p_, t, at);
    for (int v = 0; v * S::kLanes < at.left; ++v) {
      F one[1][1] = {{t[0][v]}};
      conv_finish<S, 1, 1>(p_, one, {at.y, at.other, at.column + v * S::kLanes, at.left - v * S::kLanes, true});
    }
  }

  static void in_order(const F (&t)[4], F (&to)[4]) {
    const F a = _mm512_shuffle_f32x4(t[0], t[1], 0x88), b = _mm512_shuffle_f32x4(t[2], t[3], 0x88);
    const F c = _mm512_shuffle_f32x4(t[0], t[1], 0xdd), d = _mm512_shuffle_f32x4(t[2], t[3], 0xdd);
    to[0] = _mm512_shuffle_f32x4(a, b, 0x88);  // a = t0[0] t0[2] t1[0] t1[2]
    to[1] = _mm512_shuffle_f32x4(c, d, 0x88);
    to[2] = _mm512_shuffle_f32x4(a, b, 0xdd);
    to[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }

  static int64_t channel_of(int64_t place) {
    const int64_t block = place / 64, v = place % 64 / 16, lane = place % 16;
    return block * 64 + 16 * (lane / 4) + 4 * v + lane % 4;
  }

  void pack(const StageSpec& spec) {
    const int64_t whole = (p_.c + 63) / 64 * 64, taps = p_.at.taps;
    float* multiplier = static_cast<float*>(spec.arena->take(static_cast<size_t>(whole) * 4));
    float* offset = static_cast<float*>(spec.arena->take(static_cast<size_t>(whole) * 4));
    int32_t* start = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(whole) * 4));
    for (int64_t i = 0; i < whole; ++i) {
      multiplier[i] = p_.multiplier[channel_of(i)];
      offset[i] = p_.offset[channel_of(i)];
      start[i] = p_.start[channel_of(i)];
    }
    multiplier_ = multiplier;
    offset_ = offset;
    start_ = start;
    const int8_t* given = spec.attrs.int8s("weight", p_.c * taps);
    const int64_t bytes = whole / 64 * shifts_ * deep_ * across_.kernel * 256;
    int8_t* to = static_cast<int8_t*>(spec.arena->take(static_cast<size_t>(bytes)));
    weights_ = reinterpret_cast<const char*>(to);
    for (int64_t block = 0; block < whole; block += 64)
      for (int64_t shift = 0; shift < shifts_; ++shift)
        for (int64_t d = 0; d < deep_; ++d)
          for (int64_t t = 0; t < across_.kernel; ++t)
            for (int64_t i = 0; i < 64; ++i)
              for (int64_t j = 0; j < 4; ++j, ++to) {
                const int64_t channel = channel_of(block + i), row = 4 * d + j - shift;
                if (channel >= p_.c || row < 0 || row >= down_.kernel) continue;
                *to = given[channel * taps + (sideways_ ? row : row * across_.kernel + t)];
              }
  }

  ConvLayer p_;
  Canvas canvas_;
  Axis down_, across_;
  bool direct_, sideways_;
  int64_t deep_, shifts_, columns_bytes_;
  const char* weights_;
  const float *multiplier_, *offset_;
  const int32_t* start_;
};

}  // namespace rta
#endif
