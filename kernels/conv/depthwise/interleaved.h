// Depthwise convolution of int8 with AVX-512 VNNI: the bytes of 4 rows of the image are interleaved, so that a vector
// holds 4 rows of 16 channels, and one dot product does 4 taps of them. Where the kernel is lower than 4 rows and moves
// by one, neighboring output rows use the same interleaved rows with shifted weights: 3 rows as (w0, w1, w2, 0) and
// (0, w0, w1, w2). A kernel of one row lies on its side.
//
// Interleaving within 128 bits leaves vector v, lane i of 64 channels as channel 16 (i / 4) + 4 v + i % 4. Packing to
// bytes undoes that by itself; weights, multiplier and offset are stored in this order.
#pragma once

#include "conv/epilogue.h"
#include "conv/padded_image.h"

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
    direct_ = !p_.quantizes && !g.in_steps && !p_.flat;
    padded_image_.cell = (p_.c + 63) / 64 * 64;
    padded_image_.row = g.reach.x * padded_image_.cell;
    padded_image_.bytes = g.reach.y * padded_image_.row;
    if (padded_image_.bytes >= INT32_MAX) fail("conv: an image of 2 GiB");
    sideways_ = g.kernel.y == 1;
    down_ = axis(g, sideways_);
    across_ = axis(g, !sideways_);
    deep_ = (down_.kernel + 3) / 4;
    shifts_ = down_.kernel <= 4 && down_.stride == 1 && down_.dilation == 1 ? 5 - down_.kernel : 1;
    slides_ = shifts_ == 2 && across_.kernel == 3 && across_.stride == 1 && across_.dilation == 1 && across_.out > 1;
    columns_bytes_ = deep_ * across_.reach * 256;
    if (slides_) columns_bytes_ = 2 * across_.out * 256;
    fast_ = p_.int8_out && p_.bounded;
    pack(spec);
    spec.need_scratch(static_cast<size_t>(columns_bytes_ + (direct_ ? 0 : padded_image_.bytes + 64)));
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* image = p_.x.row(run, s * p_.x.steps);
      float scale = 1.0f;
      if (!direct_) {
        char* padded_image = run.scratch + columns_bytes_;
        scale = fill_padded_image<S>(p_, padded_image_, padded_image, image, run.nan_marks + s);
        image = padded_image;
      }
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      for (int64_t block = 0; block * 64 < p_.c; ++block) {
        const ConvTarget at{y, other, block * 64, p_.c - block * 64, true};
        const char* w = weights_ + block * shifts_ * deep_ * across_.kernel * 256;
        if (slides_) {
          fast_ ? slide_rows<true>(image + block * 64, w, scale, at, run.scratch)
                : slide_rows<false>(image + block * 64, w, scale, at, run.scratch);
          continue;
        }
        for (int64_t o = 0; o < down_.out; o += shifts_) {
          interleave(image + block * 64, run.scratch, o);
          for (int64_t shift = 0; shift < shifts_ && o + shift < down_.out; ++shift) {
            const char* shifted = w + shift * deep_ * across_.kernel * 256;
            if (fast_)
              line<true>(run.scratch, shifted, o + shift, scale, at);
            else
              line<false>(run.scratch, shifted, o + shift, scale, at);
          }
        }
      }
    }
  }

 private:
  // One direction: steps in bytes of the image that is read, in rows of y. Outside 0..in - 1 there is padding.
  struct Axis {
    int64_t kernel, stride, dilation, out, reach, padding, in, image_step, out_step;
  };

  Axis axis(const ConvGeometry& g, bool horizontal) const {
    Axis a = horizontal
                 ? Axis{g.kernel.x, g.stride.x, g.dilation.x, g.out.x, g.reach.x, g.padding.x, g.in.x, p_.x_step, 1}
                 : Axis{g.kernel.y,  g.stride.y, g.dilation.y,       g.out.y, g.reach.y,
                        g.padding.y, g.in.y,     g.in.x * p_.x_step, g.out.x};
    if (direct_) return a;
    a.padding = 0;
    a.in = a.reach;
    a.image_step = horizontal ? padded_image_.cell : padded_image_.row;
    return a;
  }

  static void interleave4(I (&to)[4], I r0, I r1, I r2, I r3) {
    const I low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
    const I low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
    to[0] = _mm512_unpacklo_epi16(low01, low23);
    to[1] = _mm512_unpackhi_epi16(low01, low23);
    to[2] = _mm512_unpacklo_epi16(high01, high23);
    to[3] = _mm512_unpackhi_epi16(high01, high23);
  }

  void interleave(const char* image, char* to, int64_t o) const {
    const Axis across = across_;
    const I pad = _mm512_set1_epi8(static_cast<char>(p_.x_zero));
    const int64_t end = across.padding + across.in < across.reach ? across.padding + across.in : across.reach;
    for (int64_t d = 0; d < deep_; ++d) {
      const char* row[4];
      int64_t step[4];
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t at = o * down_.stride + (4 * d + j) * down_.dilation - down_.padding;
        const bool inside = at >= 0 && at < down_.in;
        row[j] = inside ? image + at * down_.image_step : pad_;
        step[j] = inside ? across.image_step : 0;
      }
      int64_t i = 0;
      for (; i < across.padding && i < across.reach; ++i, to += 256)
        for (int v = 0; v < 4; ++v) _mm512_store_si512(to + 64 * v, pad);
      for (; i < end; ++i, to += 256) {
        I x[4];
        interleave4(x, load(row[0]), load(row[1]), load(row[2]), load(row[3]));
        for (int v = 0; v < 4; ++v) _mm512_store_si512(to + 64 * v, x[v]);
        row[0] += step[0];
        row[1] += step[1];
        row[2] += step[2];
        row[3] += step[3];
      }
      for (; i < across.reach; ++i, to += 256)
        for (int v = 0; v < 4; ++v) _mm512_store_si512(to + 64 * v, pad);
    }
  }

  // interleaved_slide.h
  template <int kHalf, int kDown, bool kFast>
  void half(const char* image, const char* w, int64_t o, float scale, const ConvTarget& at, char* kept) const;
  template <int kDown, bool kFast>
  void slide(const char* image, const char* w, int64_t o, float scale, const ConvTarget& at, char* kept) const;

  template <bool kFast>
  void slide_rows(const char* image, const char* w, float scale, const ConvTarget& at, char* kept) const {
    int64_t o = 0;
    for (; o + 2 <= down_.out; o += 2) slide<2, kFast>(image, w, o, scale, at, kept);
    if (o < down_.out) slide<1, kFast>(image, w, o, scale, at, kept);
  }

  static I load(const char* p) { return _mm512_loadu_si512(p); }

  // One line of outputs for 64 channels.
  template <bool kFast>
  void line(const char* columns, const char* w, int64_t o, float scale, const ConvTarget& at) const {
    const int64_t step = across_.out_step, start = o * down_.out_step, count = across_.out;
    int64_t i = 0;
    while (i < count) {
      const int64_t left = count - i;
      const int now = static_cast<int>(left <= 5 ? left : left < 10 ? (left + 1) / 2 : 5);
      const int64_t position = start + i * step;
      switch (now) {
        case 1: tile<1, kFast>(columns, w, i, scale, at, position); break;
        case 2: tile<2, kFast>(columns, w, i, scale, at, position); break;
        case 3: tile<3, kFast>(columns, w, i, scale, at, position); break;
        case 4: tile<4, kFast>(columns, w, i, scale, at, position); break;
        default: tile<5, kFast>(columns, w, i, scale, at, position);
      }
      i += now;
    }
  }

  template <int R, bool kFast>
  void tile(const char* columns, const char* w, int64_t first, float scale, const ConvTarget& to,
            int64_t position) const {
    I acc[R][4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const I start = S::load_int(start_ + to.column + 16 * v);
#pragma GCC unroll 5
      for (int r = 0; r < R; ++r) acc[r][v] = start;
    }
    const int64_t between = across_.stride * 256, further = across_.dilation * 256, taps = across_.kernel;
    const char* base = columns + first * across_.stride * 256;
    for (int64_t d = 0; d < deep_; ++d, base += across_.reach * 256) {
      const char* x = base;
      for (int64_t t = 0; t < taps; ++t, x += further, w += 256) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          const I weight = _mm512_load_si512(w + 64 * v);
#pragma GCC unroll 5
          for (int r = 0; r < R; ++r) acc[r][v] = S::dot(acc[r][v], load(x + r * between + 64 * v), weight);
        }
      }
    }
    epilogue<R, kFast>(acc, scale, to, position, across_.out_step);
  }

  // Sums of R positions that are `step` apart.
  template <int R, bool kFast>
  inline __attribute__((always_inline)) void epilogue(const I (&acc)[R][4], float scale, const ConvTarget& to,
                                                      int64_t position, int64_t step) const {
    const float *multiplier = multiplier_ + to.column, *offset = offset_ + to.column;
    if constexpr (kFast) {
      char* y = to.y + position * p_.y.pitch + to.column;
      const int64_t pitch = step * p_.y.pitch;
      const I zero = _mm512_set1_epi16(static_cast<int16_t>(p_.y_zero));
      const I low = _mm512_set1_epi8(static_cast<char>(p_.y_low));
#pragma GCC unroll 5
      for (int r = 0; r < R; ++r) {
        I q[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
          q[v] =
              S::to_int(S::add(S::mul(S::to_float(acc[r][v]), S::load(multiplier + 16 * v)), S::load(offset + 16 * v)));
        const I a = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero);
        const I b = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero);
        _mm512_storeu_si512(y + r * pitch, _mm512_max_epu8(_mm512_packus_epi16(a, b), low));
      }
      return;
    }
    alignas(64) float sums[R][4 * 16];
#pragma GCC unroll 5
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const F m = S::load(multiplier + 16 * v);
        S::store(sums[r] + 16 * v, S::add(S::mul(S::to_float(acc[r][v]), p_.dynamic ? S::mul(m, S::set(scale)) : m),
                                          S::load(offset + 16 * v)));
      }
    for (int r = 0; r < R; ++r) epilogue_row(sums[r], to, position + r * step);
  }

  __attribute__((noinline)) void epilogue_row(const float* sums, const ConvTarget& to, int64_t row) const {
    F t[4], natural[1][4];
    for (int v = 0; v < 4; ++v) t[v] = S::load(sums + 16 * v);
    in_order(t, natural[0]);
    const char* other = to.other ? to.other + row * p_.other.pitch : nullptr;
    const ConvTarget at{to.y + row * p_.y.pitch, other, to.column, to.left, true};
    if (to.left >= 64) return conv_epilogue<S, 1, 4>(p_, natural, at);
    for (int v = 0; v * 16 < at.left; ++v) {  // one to three vectors exist
      F one[1][1] = {{natural[0][v]}};
      conv_epilogue<S, 1, 1>(p_, one, {at.y, other, at.column + v * 16, at.left - v * 16, true});
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
    char* pad = static_cast<char*>(spec.arena->take(64));
    for (int i = 0; i < 64; ++i) pad[i] = static_cast<char>(p_.x_zero);
    pad_ = pad;
    multiplier_ = multiplier;
    offset_ = offset;
    start_ = start;
    const int8_t* given = spec.attrs.int8s("weight", p_.c * taps);
    const int64_t bytes = whole / 64 * shifts_ * deep_ * across_.kernel * 256;
    int8_t* to = static_cast<int8_t*>(spec.weights(static_cast<size_t>(bytes)));
    weights_ = reinterpret_cast<const char*>(to);
    for (int64_t block = 0; spec.packs() && block < whole; block += 64)
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
  PaddedImage padded_image_;
  Axis down_, across_;
  bool direct_, sideways_, slides_, fast_;
  int64_t deep_, shifts_, columns_bytes_;
  const char *weights_, *pad_;
  const float *multiplier_, *offset_;
  const int32_t* start_;
};

}  // namespace rta

#include "interleaved_slide.h"
#endif
