// Softmax of each row on the CPU. The contract is in contract.py.
#pragma once

#include "activation.h"
#include "stage.h"

namespace rta {

template <class S>
class SoftmaxStage final : public Stage {
 public:
  explicit SoftmaxStage(const StageSpec& spec)
      : x_(spec.in(0)), y_(spec.out(0)), width_(static_cast<int>(spec.output(0).width)) {}

  void run(const Run& run) const override {
    constexpr float kLowest = -__builtin_inff();
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      F peak = S::set(kLowest), sum = S::set(0.0f);
      for (int i = 0; i < width_; i += S::kLanes) peak = S::max(S::load_n(x + i, count(i), kLowest), peak);
      const F top = S::set(S::max_of(peak));
      for (int i = 0; i < width_; i += S::kLanes) {
        const F e = exp_negative<S>(S::sub(S::load_n(x + i, count(i), kLowest), top));
        S::store_n(y + i, e, count(i));
        sum = S::add(sum, e);
      }
      const F total = S::set(S::sum_of(sum));
      for (int i = 0; i < width_; i += S::kLanes)
        S::store_n(y + i, S::div(S::load_n(y + i, count(i)), total), count(i));
    }
  }

 private:
  using F = typename S::F;
  int count(int i) const { return width_ - i < S::kLanes ? width_ - i : S::kLanes; }

  Port x_, y_;
  int width_;
};

template <class S>
Stage* create_softmax(const StageSpec& spec) {
  return new SoftmaxStage<S>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "softmax", "cpu", nullptr, create_softmax<S>);
}

}  // namespace rta
