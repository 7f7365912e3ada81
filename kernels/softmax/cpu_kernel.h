// Softmax of each row on the CPU. The contract is in contract.py.
//
// Floor: 25 instructions of exp for each vector, and three passes over a row in the first-level cache.
#pragma once

#include "_common/checks.h"
#include "_simd/activation.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class SoftmaxStage final : public Stage {
 public:
  explicit SoftmaxStage(const StageSpec& spec)
      : x_(spec.in(0)),
        y_(spec.out(0)),
        width_(static_cast<int>(spec.output(0).width)),
        int8_out_(spec.output(0).dtype == RTA_INT8),
        inv_scale_(static_cast<float>(spec.attrs.real("inv_scale"))),
        zero_(zero_byte(spec.attrs, "zero_point")) {
    expect_ports(spec, 1, 1);
    expect_dtype(spec.input(0), RTA_FLOAT32, "x");
    expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
    expect_shape(spec.output(0), x_.steps, x_.width, "y");
    if (int8_out_) spec.need_scratch(static_cast<size_t>(width_) * sizeof(float));
  }

  bool marks_samples() const override { return int8_out_; }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      char* y = y_.row(run, r);
      float* made = reinterpret_cast<float*>(int8_out_ ? run.scratch : y);
      const F inverse = exps(x, made);
      if (int8_out_) {
        if (!quantize(made, inverse, reinterpret_cast<uint8_t*>(y))) {
          for (int i = 0; i < width_; ++i) y[i] = static_cast<char>(128);
          run.nan_marks[r / x_.steps] = __builtin_nanf("");
        }
        continue;
      }
      over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
        store_part<S>(made + i, S::mul(load_part<S>(made + i, n), inverse), n);
      });
    }
  }

 private:
  using F = typename S::F;

  // exp(x - max x) to `made`; gives 1 / their sum in every lane.
  F exps(const float* x, float* made) const {
    constexpr float lowest = -__builtin_inff();
    constexpr int vectors = kPartialSums / S::kLanes;
    F peak[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) peak[v] = S::set(lowest);
    over_row<S>(width_, [&](int v, int i, int n) __attribute__((always_inline)) {
      peak[v] = S::max(n == S::kLanes ? S::load(x + i) : S::load_n(x + i, n, lowest), peak[v]);
    });
#pragma GCC unroll 16
    for (int v = 1; v < vectors; ++v) peak[0] = S::max(peak[v], peak[0]);
    const F top = S::set(S::max_of(peak[0]));
    PartialSums<S> sums;
    over_row<S>(width_, [&](int v, int i, int n) __attribute__((always_inline)) {
      const F e = exp_negative<S>(S::sub(n == S::kLanes ? S::load(x + i) : S::load_n(x + i, n, lowest), top));
      store_part<S>(made + i, e, n);
      sums.part[v] = S::add(sums.part[v], e);
    });
    return S::set(1.0f / sums.total());
  }

  bool quantize(const float* made, F factor, uint8_t* q) const {
    const F inverse = S::set(inv_scale_);
    const auto zero = S::set_int(zero_);
    F nonfinite = S::set(0.0f);
    over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
      const F y = S::mul(load_part<S>(made + i, n), factor);
      nonfinite = S::mul_add(y, S::set(0.0f), nonfinite);
      store_quantized<S>(q + i, y, inverse, zero);
    });
    return S::sum_of(nonfinite) == 0.0f;
  }

  GraphIO x_, y_;
  int width_;
  bool int8_out_;
  float inv_scale_;
  int32_t zero_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "softmax", "cpu", nullptr, create_stage<SoftmaxStage<S>>);
}

}  // namespace rta
