// Pooling on the CPU: up to 4 vectors of channels walk through the positions of a window. The contract is in
// contract.py.
#pragma once

#include "_common/checks.h"
#include "_simd/activation.h"
#include "_simd/store_bytes.h"

namespace rta {

template <class S>
class PoolStage final : public Stage {
  using F = typename S::F;
  using I = typename S::I;

 public:
  explicit PoolStage(const StageSpec& spec)
      : x_(spec.in(0)),
        y_(spec.out(0)),
        int8_in_(spec.input(0).dtype == RTA_INT8),
        int8_out_(spec.output(0).dtype == RTA_INT8),
        largest_(flag(spec.attrs, "largest")),
        taps_(between(spec.attrs, "taps", 1, kMostTaps)),
        activation_(parse_activation(spec.attrs.text("activation"))),
        parameter_(static_cast<float>(spec.attrs.real("activation_parameter"))),
        x_zero_(zero_byte(spec.attrs, "x_zero_point")),
        y_inv_scale_(static_cast<float>(spec.attrs.real("y_inv_scale"))),
        y_zero_(zero_byte(spec.attrs, "y_zero_point")) {
    expect_ports(spec, 1, 1);
    expect_dtype(spec.input(0), RTA_FLOAT32, RTA_INT8, "x");
    expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
    expect(x_.width == y_.width, "%lld channels to %lld", static_cast<long long>(x_.width),
           static_cast<long long>(y_.width));
    // Positions inside the image, front to back: [window][first free place, then positions].
    const int32_t* index = spec.attrs.ints("index", product(y_.steps, taps_));
    expect_within(index, y_.steps * taps_, -1, x_.steps, "index");
    int32_t* rows = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(product(y_.steps, taps_ + 1)) * 4));
    for (int64_t p = 0; p < y_.steps; ++p) {
      int32_t* own = rows + p * (taps_ + 1);
      for (int64_t t = 0; t < taps_; ++t)
        if (index[p * taps_ + t] >= 0) own[++own[0]] = index[p * taps_ + t];
      expect(own[0] > 0, "window %lld lies wholly in the padding", static_cast<long long>(p));
    }
    rows_ = rows;
    float* multiplier = static_cast<float*>(spec.arena->take(static_cast<size_t>(y_.steps) * 4));
    const float* given = spec.attrs.floats("multiplier", y_.steps);
    for (int64_t p = 0; p < y_.steps; ++p) multiplier[p] = given[p];
    multiplier_ = multiplier;
  }

  bool marks_samples() const override { return !int8_in_ && int8_out_; }

  void run(const Run& run) const override {
    const int64_t width = y_.width;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t column = 0; column < width; column += 4 * S::kLanes) {
        const int64_t left = width - column;
        switch (left >= 4 * S::kLanes ? 4 : (left + S::kLanes - 1) / S::kLanes) {
          case 1: windows<1>(run, s, column, left); break;
          case 2: windows<2>(run, s, column, left); break;
          case 3: windows<3>(run, s, column, left); break;
          default: windows<4>(run, s, column, left);
        }
      }
  }

 private:
  static constexpr int64_t kMostTaps = 1 << 22;  // sums of so many bytes stay below 2^31

  template <int V>
  void windows(const Run& run, int64_t s, int64_t column, int64_t left) const {
    const char* x = x_.row(run, s * x_.steps);
    for (int64_t p = 0; p < y_.steps; ++p) {
      const int32_t* rows = rows_ + p * (taps_ + 1);
      F t[V];
      if (int8_in_)
        largest_ ? bytes<V, true>(x + column, rows, t) : bytes<V, false>(x + column, rows, t);
      else
        largest_ ? floats<V, true>(x + column * 4, rows, left, t) : floats<V, false>(x + column * 4, rows, left, t);
      const F multiplier = S::set(multiplier_[p]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) t[v] = S::mul(t[v], multiplier);
      epilogue<V>(t, y_.row(run, s * y_.steps + p), column, left, run.nan_marks + s);
    }
  }

  template <int V, bool kLargest>
  void bytes(const char* x, const int32_t* rows, F (&t)[V]) const {
    I acc[V];
    const int32_t count = rows[0];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = S::set_int(kLargest ? 0 : -x_zero_ * count);
    for (int32_t i = 1; i <= count; ++i) {
      const uint8_t* from = reinterpret_cast<const uint8_t*>(x + rows[i] * x_.pitch);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const I q = S::load_u8(from + v * S::kLanes);
        acc[v] = kLargest ? S::max_int(acc[v], q) : S::add_int(acc[v], q);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) t[v] = S::to_float(kLargest ? S::sub_int(acc[v], S::set_int(x_zero_)) : acc[v]);
  }

  template <int V, bool kLargest>
  void floats(const char* x, const int32_t* rows, int64_t left, F (&t)[V]) const {
    for (int32_t i = 1; i <= rows[0]; ++i) {
      const float* from = reinterpret_cast<const float*>(x + rows[i] * x_.pitch);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int64_t n = left - v * S::kLanes;
        const F value =
            n >= S::kLanes ? S::load(from + v * S::kLanes) : S::load_n(from + v * S::kLanes, static_cast<int>(n));
        if (i == 1)
          t[v] = value;
        else if (kLargest)  // a NaN stays: max gives its second operand where either is one
          t[v] = S::select(S::equal(t[v], t[v]), S::max(t[v], value), t[v]);
        else
          t[v] = S::add(t[v], value);
      }
    }
  }

  template <int V>
  void epilogue(F (&t)[V], char* y, int64_t column, int64_t left, float* nan_marks) const {
    if (marks_samples()) {
      F nonfinite = S::set(0.0f);
      for (int v = 0; v < V; ++v) nonfinite = S::mul_add(t[v], S::set(0.0f), nonfinite);
      if (!(S::sum_of(nonfinite) == 0.0f)) *nan_marks = __builtin_nanf("");
    }
    if (activation_ == Activation::kRelu) {
      for (int v = 0; v < V; ++v) t[v] = S::max(S::set(0.0f), t[v]);
    } else if (activation_ != Activation::kNone) {
      alignas(64) float values[V * S::kLanes];
      for (int v = 0; v < V; ++v) S::store(values + v * S::kLanes, t[v]);
      activate_in_place<S>(activation_, parameter_, values, V);
      for (int v = 0; v < V; ++v) t[v] = S::load(values + v * S::kLanes);
    }
    if (int8_out_) {
      I q[V];
      for (int v = 0; v < V; ++v)
        q[v] = S::to_int(S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(t[v], S::set(y_inv_scale_)))));
      store_bytes<S, V>(reinterpret_cast<uint8_t*>(y) + column, q, y_zero_, 0);
      return;
    }
    float* to = reinterpret_cast<float*>(y) + column;
    for (int v = 0; v < V; ++v) {
      const int64_t n = left - v * S::kLanes;
      if (n >= S::kLanes)
        S::store(to + v * S::kLanes, t[v]);
      else
        S::store_n(to + v * S::kLanes, t[v], static_cast<int>(n));
    }
  }

  GraphIO x_, y_;
  bool int8_in_, int8_out_, largest_;
  int64_t taps_;
  Activation activation_;
  float parameter_;
  int32_t x_zero_;
  float y_inv_scale_;
  int32_t y_zero_;
  const int32_t* rows_;
  const float* multiplier_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "pool", "cpu", nullptr, create_stage<PoolStage<S>>);
}

}  // namespace rta
