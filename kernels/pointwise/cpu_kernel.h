// Pointwise on the CPU: y = act(x * scale + shift + other). The contract is in contract.py.
#pragma once

#include "activation.h"
#include "stage.h"

namespace rta {

template <class S>
class PointwiseStage final : public Stage {
 public:
  explicit PointwiseStage(const StageSpec& spec)
      : x_(spec.in(0)),
        other_(spec.in(1)),
        y_(spec.out(0)),
        width_(static_cast<int>(spec.output(0).width)),
        activation_(parse_activation(spec.attrs.text("activation"))),
        parameter_(static_cast<float>(spec.attrs.real("activation_parameter"))) {
    scale_ = shift_ = nullptr;
    if (!spec.attrs.has("scale")) return;
    scale_ = copy(*spec.arena, spec.attrs.floats("scale", width_));
    shift_ = copy(*spec.arena, spec.attrs.floats("shift", width_));
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      const float* other = other_.exists() ? reinterpret_cast<const float*>(other_.row(run, r)) : nullptr;
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      for (int i = 0; i < width_; i += S::kLanes) {
        const int n = width_ - i < S::kLanes ? width_ - i : S::kLanes;
        F t = S::load_n(x + i, n);
        if (scale_) t = S::add(S::mul(t, S::load_n(scale_ + i, n)), S::load_n(shift_ + i, n));
        if (other) t = S::add(t, S::load_n(other + i, n));
        S::store_n(y + i, activate<S>(activation_, parameter_, t), n);
      }
    }
  }

 private:
  using F = typename S::F;

  const float* copy(Arena& arena, const float* from) const {
    float* to = static_cast<float*>(arena.take(static_cast<size_t>(width_) * sizeof(float)));
    for (int i = 0; i < width_; ++i) to[i] = from[i];
    return to;
  }

  Port x_, other_, y_;
  int width_;
  Activation activation_;
  float parameter_;
  const float *scale_, *shift_;
};

template <class S>
Stage* create_pointwise(const StageSpec& spec) {
  return new PointwiseStage<S>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "pointwise", "cpu", nullptr, create_pointwise<S>);
}

}  // namespace rta
