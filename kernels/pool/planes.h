// Pooling over planes: vectors run along the rows of the image, so that a single channel fills them.
//
// For each row of outputs the rows of its windows become one line, which is combined along itself after. A regular line
// has room for what lies outside of the image, and lies in phases where windows are a stride apart: every tap then
// reads its vectors side by side. int8 numbers are lines of q - zero point: their sums are whole numbers that float32
// holds.
//
// Floor: x and y once, and for each output the rows and columns of its window, not their product.
#pragma once

#include "_common/long_sums.h"
#include "_simd/split_pairs.h"
#include "layer.h"

namespace rta {

template <class S>
class PlanePoolStage final : public Stage {
  using F = typename S::F;
  using I = typename S::I;

 public:
  explicit PlanePoolStage(const StageSpec& spec)
      : p_(read_pool(spec)),
        height_(between(spec.attrs, "height", 1, INT32_MAX)),
        width_(between(spec.attrs, "width", 1, INT32_MAX)),
        row_taps_(between(spec.attrs, "row_taps", 1, kPoolTaps)),
        taps_(between(spec.attrs, "taps", 1, kPoolTaps)),
        stride_(between(spec.attrs, "stride", 0, INT32_MAX)),
        dilation_(between(spec.attrs, "dilation", 1, INT32_MAX)),
        before_(between(spec.attrs, "before", 0, INT32_MAX)) {
    const int64_t row_entries = spec.attrs.count("rows"), entries = spec.attrs.count("columns");
    out_height_ = row_entries / row_taps_;
    out_width_ = entries / taps_;
    expect(out_height_ > 0 && out_width_ > 0, "no outputs");
    channels_ = elements(spec.input(0)) / product(height_, width_);
    expect(elements(spec.input(0)) == product(channels_, height_, width_) &&
               elements(spec.output(0)) == product(channels_, out_height_, out_width_),
           "values are no %lld planes", static_cast<long long>(channels_));
    expect(!p_.int8_in || product(row_taps_, taps_) <= kMostInt8, "windows of more than %lld numbers",
           static_cast<long long>(kMostInt8));
    x_row_ = row_bytes(p_.x, width_, p_.int8_in ? 1 : 4);
    y_row_ = row_bytes(p_.y, out_width_, p_.int8_out ? 1 : 4);
    rows_ = read_windows(spec, "rows", out_height_, row_taps_, height_);
    columns_ = read_windows(spec, "columns", out_width_, taps_, width_);
    if (stride_) expect_regular();
    const int64_t reach = stride_ ? (out_width_ - 1) * stride_ + (taps_ - 1) * dilation_ + 1 : width_;
    const int64_t least = before_ + width_ > reach ? before_ + width_ : reach;
    phase_ = stride_ > 1 ? ((least + stride_ - 1) / stride_ + 15) / 16 * 16 + 16 : (least + 15) / 16 * 16 + 16;
    product(phase_, stride_ ? stride_ : 1, 4);
    line_bytes_ = ((least + 15) / 16 * 16 + 16) * 4;
    as_it_lies_ = !p_.int8_in && stride_ == 1 && before_ == 0 && reach <= width_ && out_width_ >= S::kLanes;
    spec.need_scratch(static_cast<size_t>(line_bytes_ + (stride_ > 1 ? stride_ * phase_ * 4 + 64 : 0) +
                                          (stride_ ? 0 : (out_width_ + 16) * 4)));
    multiplier_ = read_multiplier(spec, out_height_ * out_width_);
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = p_.x.row(run, s * p_.x.steps);
      char* y = p_.y.row(run, s * p_.y.steps);
      float* nan_marks = run.nan_marks + s;
      if (p_.largest)
        p_.int8_in ? planes<true, true>(x, y, run.scratch, nan_marks)
                   : planes<true, false>(x, y, run.scratch, nan_marks);
      else
        p_.int8_in ? planes<false, true>(x, y, run.scratch, nan_marks)
                   : planes<false, false>(x, y, run.scratch, nan_marks);
    }
  }

 private:
  static constexpr int64_t kMostInt8 = 65'536;
  static constexpr float kInfinity = __builtin_inff();

  // Rows of a value that follow one another without gaps, or are those of the image.
  static int64_t row_bytes(const GraphIO& v, int64_t width, int64_t element) {
    if (v.steps == 1 || v.pitch == v.width * element) return width * element;
    expect(v.width == width, "rows with gaps that are not those of the image");
    return v.pitch;
  }

  void expect_regular() const {
    for (int64_t o = 0; o < out_width_; ++o) {
      const int32_t* own = columns_ + o * (taps_ + 1);
      int32_t found = 0;
      for (int64_t t = 0; t < taps_; ++t) {
        const int64_t at = o * stride_ + t * dilation_ - before_;
        if (at < 0 || at >= width_) continue;
        ++found;
        expect(found <= own[0] && own[found] == at, "columns are not those of a stride");
      }
      expect(found == own[0], "columns are not those of a stride");
    }
  }

  template <bool kLargest>
  static inline F join(F a, F b) {
    if constexpr (kLargest) return S::select(S::equal(a, a), S::max(a, b), a);  // a NaN stays, from either side
    return S::add(a, b);
  }

  template <bool kLargest, bool kInt8>
  void planes(const char* x, char* y, char* scratch, float* nan_marks) const {
    float* line = reinterpret_cast<float*>(scratch);
    float* phases = stride_ > 1 ? reinterpret_cast<float*>(scratch + line_bytes_) : line;
    const F outside = S::set(kLargest ? -kInfinity : 0.0f);
    for (int64_t i = 0; i < line_bytes_ / 4; i += S::kLanes) S::store(line + i, outside);
    for (int64_t i = 0; stride_ > 1 && i < stride_ * phase_; i += S::kLanes) S::store(phases + i, outside);
    for (int64_t c = 0; c < channels_; ++c, x += height_ * x_row_)
      for (int64_t row = 0; row < out_height_; ++row, y += y_row_) {
        const int32_t* rows = rows_ + row * (row_taps_ + 1);
        if (as_it_lies_ && rows[0] == 1) {
          along<kLargest>(reinterpret_cast<const float*>(x + rows[1] * x_row_), y, row, nan_marks);
        } else if (stride_ == 2) {
          halves<kLargest, kInt8>(x, rows, phases);
          along<kLargest>(phases, y, row, nan_marks);
        } else {
          down<kLargest, kInt8>(x, rows, line + before_);
          if (stride_ == 0) {
            gathered<kLargest>(line, reinterpret_cast<float*>(scratch + line_bytes_), y, row, nan_marks);
            continue;
          }
          if (stride_ > 1) part(line, phases);
          along<kLargest>(phases, y, row, nan_marks);
        }
      }
  }

  template <bool kInt8>
  static inline F number(const char* row, int64_t i, F zero) {
    if constexpr (kInt8) return S::sub(S::to_float(S::load_u8(reinterpret_cast<const uint8_t*>(row) + i)), zero);
    return S::load(reinterpret_cast<const float*>(row) + i);
  }

  // The rows of a window, from number i of them on.
  template <bool kLargest, bool kInt8>
  inline __attribute__((always_inline)) F joined(const char* x, const int32_t* rows, int64_t i) const {
    const F zero = S::set(static_cast<float>(p_.x_zero));
    if (rows[0] > kSumRun && !kLargest && !kInt8) return long_sum(x, rows, i);
    F t = number<kInt8>(x + rows[1] * x_row_, i, zero);
    for (int32_t r = 2; r <= rows[0]; ++r) t = join<kLargest>(t, number<kInt8>(x + rows[r] * x_row_, i, zero));
    return t;
  }

  __attribute__((noinline)) F long_sum(const char* x, const int32_t* rows, int64_t i) const {
    F t[1][1] = {{S::set(0.0f)}};
    LongSums<S, 1, 1> all;
    for (int64_t r = 0, count = rows[0]; r < count; all.keep(t))
      for (const int64_t end = run_end(r, count); r < end; ++r)
        t[0][0] = S::add(t[0][0], S::load(reinterpret_cast<const float*>(x + rows[r + 1] * x_row_) + i));
    all.finish(t);
    return t[0][0];
  }

  template <bool kLargest, bool kInt8>
  float joined_one(const char* x, const int32_t* rows, int64_t i) const {
    return joined_all<kLargest>(rows[0], [&](int64_t r) { return single<kInt8>(x + rows[r + 1] * x_row_, i); });
  }

  // value(0) to value(count - 1), added run by run.
  template <bool kLargest, class ValueAt>
  static float joined_all(int64_t count, ValueAt value) {
    float t = value(0), kept = 0.0f;
    for (int64_t i = 1; i < count;) {
      for (const int64_t end = kLargest ? count : run_end(i, count); i < end; ++i) t = join_one<kLargest>(t, value(i));
      if (i < count) kept += t, t = 0.0f;
    }
    return kept == 0.0f ? t : kept + t;
  }

  // As two lines, of even and of odd places.
  template <bool kLargest, bool kInt8>
  void halves(const char* x, const int32_t* rows, float* phases) const {
    float* first = phases + before_ % 2 * phase_ + before_ / 2;
    float* second = phases + (before_ + 1) % 2 * phase_ + (before_ + 1) / 2;
    split_pairs<S>(
        width_, first, second,
        [&](int64_t i) __attribute__((always_inline)) { return joined<kLargest, kInt8>(x, rows, i); },
        [&](int64_t i) __attribute__((always_inline)) { return joined_one<kLargest, kInt8>(x, rows, i); });
  }

  // As one line.
  template <bool kLargest, bool kInt8>
  void down(const char* x, const int32_t* rows, float* line) const {
    const auto vector = [&](int64_t i)
                            __attribute__((always_inline)) { S::store(line + i, joined<kLargest, kInt8>(x, rows, i)); };
    int64_t i = 0;
    for (; i + S::kLanes <= width_; i += S::kLanes) vector(i);
    if (i == width_) return;
    if (width_ >= S::kLanes) return vector(width_ - S::kLanes);
    for (; i < width_; ++i) line[i] = joined_one<kLargest, kInt8>(x, rows, i);  // a row of less than a vector
  }

  template <bool kInt8>
  float single(const char* row, int64_t i) const {
    if constexpr (kInt8) return static_cast<float>(static_cast<int32_t>(static_cast<uint8_t>(row[i])) - p_.x_zero);
    return reinterpret_cast<const float*>(row)[i];
  }

  template <bool kLargest>
  static float join_one(float a, float b) {
    if (kLargest) return a != a ? a : a > b ? a : b;
    return a + b;
  }

  void part(const float* line, float* phases) const {
    const int64_t count = before_ + width_;
    for (int64_t phase = 0; phase < stride_ && phase < count; ++phase) {
      float* to = phases + phase * phase_;
      const int64_t n = (count - phase + stride_ - 1) / stride_;
      switch (stride_) {
        case 3: spread<3>(line + phase, to, n); break;
        case 4: spread<4>(line + phase, to, n); break;
        default:
          for (int64_t i = 0; i < n; ++i) to[i] = line[phase + i * stride_];
      }
    }
  }

  // Every kApart-th number; the loop is one that compilers turn into shuffles.
  template <int kApart>
  static void spread(const float* __restrict x, float* __restrict to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = x[i * kApart];
  }

  template <bool kLargest>
  void along(const float* phases, char* y, int64_t row, float* nan_marks) const {
    int64_t i = 0;
    for (; i + 4 * S::kLanes <= out_width_; i += 4 * S::kLanes) outputs<kLargest, 4>(phases, y, row, i, nan_marks);
    for (; i + S::kLanes <= out_width_; i += S::kLanes) outputs<kLargest, 1>(phases, y, row, i, nan_marks);
    if (i == out_width_) return;
    outputs<kLargest, 1>(phases, y, row, out_width_ < S::kLanes ? 0 : out_width_ - S::kLanes, nan_marks);
  }

  template <bool kLargest, int V>
  void outputs(const float* phases, char* y, int64_t row, int64_t i, float* nan_marks) const {
    F t[1][V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) t[0][v] = S::load(phases + i + v * S::kLanes);
    LongSums<S, 1, V> all;
    int64_t across = dilation_;
    for (int64_t tap = 1; tap < taps_; ++tap, across += dilation_) {
      const float* from = phases + i + (stride_ > 1 ? across % stride_ * phase_ + across / stride_ : across);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) t[0][v] = join<kLargest>(t[0][v], S::load(from + v * S::kLanes));
      if (!kLargest && tap % kSumRun == 0) all.keep(t);
    }
    all.finish(t);
    write<V>(t[0], y, row, i, nan_marks);
  }

  // Windows that no stride gives.
  template <bool kLargest>
  void gathered(const float* line, float* made, char* y, int64_t row, float* nan_marks) const {
    const int32_t* own = columns_;
    for (int64_t o = 0; o < out_width_; ++o, own += taps_ + 1) {
      made[o] = joined_all<kLargest>(own[0], [&](int64_t i) { return line[own[i + 1]]; });
    }
    for (int64_t i = 0; i < out_width_; i += S::kLanes) {
      const int64_t left = out_width_ - i;
      F t[1] = {left >= S::kLanes ? S::load(made + i) : S::load_n(made + i, static_cast<int>(left))};
      write<1>(t, y, row, i, nan_marks);
    }
  }

  template <int V>
  inline __attribute__((always_inline)) void write(F (&t)[V], char* y, int64_t row, int64_t i, float* nan_marks) const {
    const int64_t left = out_width_ - i;
    const float* multiplier = multiplier_ + row * out_width_ + i;
    if (left < S::kLanes) {  // V is 1
      const int n = static_cast<int>(left);
      float lanes[S::kLanes];
      S::store(lanes, t[0]);
      t[0] = S::mul(S::load_n(lanes, n), S::load_n(multiplier, n));
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) t[v] = S::mul(t[v], S::load(multiplier + v * S::kLanes));
    }
    pool_epilogue<S, V, false>(p_, t, y, i, left, nan_marks);
  }

  PoolLayer p_;
  bool as_it_lies_;
  int64_t height_, width_, row_taps_, taps_, stride_, dilation_, before_;
  int64_t out_height_, out_width_, channels_, x_row_, y_row_;
  int64_t phase_, line_bytes_;  // numbers of a phase; bytes of the line before it is taken apart
  const int32_t *rows_, *columns_;
  const float* multiplier_;
};

}  // namespace rta
