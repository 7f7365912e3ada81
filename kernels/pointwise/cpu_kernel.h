// Pointwise on the CPU: y = act(join(x * scale + shift, other)). The contract is in contract.py.
#pragma once

#include <numeric>
#include <type_traits>

#include "_common/checks.h"
#include "_simd/activation.h"
#include "_simd/store_bytes.h"

namespace rta {

// A side of the sum: float32, or int8 with what it means.
struct PointwiseSide {
  GraphIO port;
  bool int8;
  float scale;
  int32_t zero;  // zero point + 128
};

template <class S>
class PointwiseStage final : public Stage {
 public:
  explicit PointwiseStage(const StageSpec& spec)
      : x_(side(spec, 0, "x_scale", "x_zero_point")),
        other_(side(spec, 1, "other_scale", "other_zero_point")),
        y_(spec.out(0)),
        width_(static_cast<int>(spec.output(0).width)),
        activation_(parse_activation(spec.attrs.text("activation"))),
        parameter_(static_cast<float>(spec.attrs.real("activation_parameter"))),
        int8_out_(spec.output(0).dtype == RTA_INT8) {
    expect_inputs(spec, 1, 2);
    expect_outputs(spec, 1, 1);
    expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
    for (int i = 0; i < spec.input_count; ++i) {
      expect_dtype(spec.input(i), RTA_FLOAT32, RTA_INT8, i ? "other" : "x");
      expect_shape(spec.input(i), y_.steps, y_.width, i ? "other" : "x");
    }
    join_ = static_cast<Join>(word(spec.attrs, "join", "add|mul|hypot"));
    scale_ = shift_ = nullptr;
    if (int8_out_) {
      y_inv_scale_ = static_cast<float>(spec.attrs.real("y_inv_scale"));
      y_zero_ = zero_byte(spec.attrs, "y_zero_point");
    }
    if (!spec.attrs.has("scale")) return;
    period_ = period();
    scale_ = copy(*spec.arena, spec.attrs.floats("scale", width_));
    const float* shift = spec.attrs.floats("shift", width_);
    bool shifts = false;  // x + -0 is x, and so is x + 0 but for the sign of a zero, which int8 does not have
    for (int i = 0; i < width_; ++i) shifts |= !(shift[i] == 0.0f && (int8_out_ || __builtin_signbit(shift[i])));
    if (shifts) shift_ = copy(*spec.arena, shift);
  }

  // An element is read before it is written, and nothing else is read in its place.
  bool updates(int, int) const override { return true; }
  bool marks_samples() const override { return int8_out_ && (!x_.int8 || (other_.port.exists() && !other_.int8)); }

  void run(const Run& run) const override {
    if (int8_out_ && !x_.int8 && !other_.port.exists() && activation_ == Activation::kNone) return quantize(run);
    if (all_dense()) {
      const int64_t all = x_.port.rows(run) * width_, period = scale_ ? period_ : all;
      if (all == 0) return;
      rows(run, 0, all / period, period, 4 * period, false);
      if (const int64_t rest = all % period) rows(run, (all - rest) / width_, 1, rest, 0, false);
      return;
    }
    const bool marks = marks_samples();
    for (int64_t s = 0; s < run.samples; ++s)
      if (!rows(run, s * y_.steps, y_.steps, width_, 0, marks)) run.nan_marks[s] = __builtin_nanf("");
  }

 private:
  using F = typename S::F;
  using I = typename S::I;
  enum class Join { kAdd, kMul, kHypot };  // in the order of their words

  // float32 rows without padding between them, one after another: numbers in a row, whatever their width.
  bool dense(const PointwiseSide& from) const { return !from.int8 && from.port.pitch == width_ * 4; }
  bool all_dense() const {
    return !int8_out_ && y_.pitch == width_ * 4 && dense(x_) && (!other_.port.exists() || dense(other_));
  }

  // Numbers after which `scale` and `shift` begin again: of narrow rows that are dense several, so that vectors are
  // whole.
  int64_t period() const {
    constexpr int64_t kMost = 512;
    const int64_t whole = std::lcm<int64_t>(width_, 4 * S::kLanes);
    return all_dense() && width_ < 8 * S::kLanes && whole <= kMost ? whole : width_;
  }

  // False where some x or other is not finite, of those that `marks` looks at. pitch: bytes from row to row where it is
  // not that of the ports.
  bool rows(const Run& run, int64_t first, int64_t count, int64_t width, int64_t pitch, bool marks) const {
    const char* other = other_.port.exists() ? other_.port.row(run, first) : nullptr;
    const Rows at{x_.port.row(run, first), other, y_.row(run, first), count, width, pitch};
    F nonfinite;
    switch (activation_) {
      case Activation::kNone: nonfinite = rows_of<Activation::kNone>(at, marks); break;
      case Activation::kRelu: nonfinite = rows_of<Activation::kRelu>(at, marks); break;
      default: nonfinite = rows_of<kAnyActivation>(at, marks);
    }
    return !marks || S::sum_of(nonfinite) == 0.0f;
  }

  struct Rows {
    const char *x, *other;
    char* y;
    int64_t count, width, pitch;
  };

  static constexpr int64_t kBlock = 32;  // vectors
  static constexpr Activation kAnyActivation = static_cast<Activation>(-1);

  // Bytes that are written could, for the compiler, be the stage: what a loop needs of it is read before.
  template <Activation kActivation>
  F rows_of(const Rows& at, bool marks) const {
    const float *const scale = scale_, *const shift = shift_, parameter = parameter_;
    const PointwiseSide from = x_, from_other = other_;
    const Activation activation = kActivation == kAnyActivation ? activation_ : kActivation;
    const Join join = join_;
    const bool int8_out = int8_out_;
    const bool blocks = kActivation == kAnyActivation && !int8_out && !marks && !from.int8 && !from_other.int8;
    const F inverse = S::set(y_inv_scale_), zero = S::set(0.0f);
    const I y_zero = S::set_int(y_zero_);
    const int64_t width = at.width, further = at.pitch ? at.pitch : y_.pitch;
    const int64_t apart = at.pitch ? at.pitch : from.port.pitch,
                  other_apart = at.pitch ? at.pitch : from_other.port.pitch;
    const char *x = at.x, *other = at.other;
    char* y = at.y;
    F sum = zero;
    for (int64_t r = at.count; r > 0; --r, x += apart, y += further) {
      int64_t i = 0;
      if (blocks) {
        // Blocks that stay at hand: the activation is chosen once for each, where y is.
        for (int64_t vectors; (vectors = (width - i) / S::kLanes) > 1; i += vectors * S::kLanes) {
          if (vectors > kBlock) vectors = kBlock;
          float* to = reinterpret_cast<float*>(y) + i;
          for (int64_t k = 0; k < vectors * S::kLanes; k += S::kLanes) {
            F t = S::load(reinterpret_cast<const float*>(x) + i + k);
            if (scale) t = S::mul(t, S::load(scale + i + k));
            if (shift) t = S::add(t, S::load(shift + i + k));
            if (other) t = joined(join, t, S::load(reinterpret_cast<const float*>(other) + i + k));
            S::store(to + k, t);
          }
          activate_in_place<S>(activation, parameter, to, static_cast<int>(vectors));
        }
      }
      const auto vector = [&](auto whole, int n) __attribute__((always_inline)) {
        constexpr bool kWhole = whole.value;
        F t = load<kWhole>(from, x, i, n);
        if (marks) sum = S::mul_add(t, zero, sum);
        if (scale) t = S::mul(t, kWhole ? S::load(scale + i) : S::load_n(scale + i, n));
        if (shift) t = S::add(t, kWhole ? S::load(shift + i) : S::load_n(shift + i, n));
        if (other) {
          const F more = load<kWhole>(from_other, other, i, n);
          if (marks) sum = S::mul_add(more, zero, sum);
          t = joined(join, t, more);
        }
        t = activate<S>(activation, parameter, t);
        if (int8_out)
          S::store_u8(reinterpret_cast<uint8_t*>(y + i), S::add_int(rounded(t, inverse), y_zero));
        else if (kWhole)
          S::store(reinterpret_cast<float*>(y) + i, t);
        else
          S::store_n(reinterpret_cast<float*>(y) + i, t, n);
      };
      for (; i + S::kLanes <= width; i += S::kLanes) vector(std::true_type{}, S::kLanes);
      if (i < width) vector(std::false_type{}, static_cast<int>(width - i));
      if (other) other += other_apart;
    }
    return sum;
  }

  static F joined(Join join, F t, F other) {
    switch (join) {
      case Join::kMul: return S::mul(t, other);
      case Join::kHypot: return S::sqrt(S::add(S::mul(t, t), S::mul(other, other)));
      default: return S::add(t, other);
    }
  }

  static PointwiseSide side(const StageSpec& spec, int i, const char* scale, const char* zero) {
    const GraphIO port = spec.in(i);
    if (!port.exists() || spec.input(i).dtype != RTA_INT8) return {port, false, 0, 0};
    return {port, true, static_cast<float>(spec.attrs.real(scale)), zero_byte(spec.attrs, zero)};
  }

  // Rows of int8 have padding up to whole vectors.
  template <bool kWhole>
  static F load(const PointwiseSide& from, const char* row, int64_t i, int n) {
    const float* x = reinterpret_cast<const float*>(row) + i;
    if (!from.int8) return kWhole ? S::load(x) : S::load_n(x, n);
    const auto q = S::load_u8(reinterpret_cast<const uint8_t*>(row) + i);
    return S::mul(S::to_float(S::sub_int(q, S::set_int(from.zero))), S::set(from.scale));
  }

  static I rounded(F t, F inverse) {
    return S::to_int(S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(t, inverse))));
  }

  // How most networks in int8 begin: float32 whose columns are brought to one range. 64 columns of 1024 at a time take
  // 0.07 us where the loop above takes 0.22 (Zen 4, 2026-11).
  void quantize(const Run& run) const {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.port.row(run, s * y_.steps);
      char* y = y_.row(run, s * y_.steps);
      const F nonfinite = !scale_   ? quantize<false, false>(x, y)
                          : !shift_ ? quantize<true, false>(x, y)
                                    : quantize<true, true>(x, y);
      if (!(S::sum_of(nonfinite) == 0.0f)) run.nan_marks[s] = __builtin_nanf("");
    }
  }

  // The rows of a sample. Not 0 where some x is not finite.
  template <bool kScaled, bool kShifted>
  F quantize(const char* from, char* to) const {
    const float *scale = scale_, *shift = shift_;  // bytes that are written could, for the compiler, be the stage
    const int width = width_, zero = y_zero_;
    const int64_t apart = x_.port.pitch, further = y_.pitch;
    const F inverse = S::set(y_inv_scale_);
    F nonfinite[4] = {S::set(0.0f), S::set(0.0f), S::set(0.0f), S::set(0.0f)};
    const auto number = [&](F t, F factor, F more, F& sum) __attribute__((always_inline)) {
      sum = S::mul_add(t, S::set(0.0f), sum);
      if constexpr (kScaled) t = S::mul(t, factor);
      if constexpr (kShifted) t = S::add(t, more);
      return S::to_int(S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(t, inverse))));
    };
    for (int64_t r = y_.steps; r > 0; --r, from += apart, to += further) {
      const float* x = reinterpret_cast<const float*>(from);
      uint8_t* y = reinterpret_cast<uint8_t*>(to);
      int i = 0;
      for (; i + 4 * S::kLanes <= width; i += 4 * S::kLanes) {
        I q[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const int at = i + j * S::kLanes;
          q[j] = number(S::load(x + at), kScaled ? S::load(scale + at) : inverse,
                        kShifted ? S::load(shift + at) : inverse, nonfinite[j]);
        }
        store_bytes<S, 4>(y + i, q, zero, 0);
      }
      for (; i < width; i += S::kLanes) {
        const int n = width - i < S::kLanes ? width - i : S::kLanes;
        const I q[1] = {number(S::load_n(x + i, n), kScaled ? S::load_n(scale + i, n) : inverse,
                               kShifted ? S::load_n(shift + i, n) : inverse, nonfinite[0])};
        store_bytes<S, 1>(y + i, q, zero, 0);
      }
    }
    return S::add(S::add(nonfinite[0], nonfinite[1]), S::add(nonfinite[2], nonfinite[3]));
  }

  const float* copy(Arena& arena, const float* from) const {
    float* to = static_cast<float*>(arena.take(static_cast<size_t>(period_) * sizeof(float)));
    for (int64_t i = 0; i < period_; ++i) to[i] = from[i % width_];
    return to;
  }

  PointwiseSide x_, other_;
  GraphIO y_;
  int width_;
  int64_t period_ = 0;
  Join join_;
  Activation activation_;
  float parameter_;
  bool int8_out_;
  float y_inv_scale_ = 1.0f;
  int32_t y_zero_ = 0;
  const float *scale_, *shift_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "pointwise", "cpu", nullptr, create_stage<PointwiseStage<S>>);
}

}  // namespace rta
