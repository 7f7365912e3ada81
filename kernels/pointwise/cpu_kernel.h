// Pointwise on the CPU: y = act(x * scale + shift + other). The contract is in contract.py.
#pragma once

#include "activation.h"
#include "row.h"
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
      const bool relu = activation_ == Activation::kRelu;
      over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
        F t = load_part<S>(x + i, n);
        if (scale_) t = S::add(S::mul(t, S::load(scale_ + i)), S::load(shift_ + i));
        if (other) t = S::add(t, load_part<S>(other + i, n));
        if (relu) t = S::max(S::set(0.0f), t);
        store_part<S>(y + i, t, n);
      });
      if (relu || activation_ == Activation::kNone) continue;
      const int whole = width_ / S::kLanes;
      activate_in_place<S>(activation_, parameter_, y, whole);
      const int left = width_ - whole * S::kLanes;
      if (left) {
        float* rest = y + whole * S::kLanes;
        S::store_n(rest, activate<S>(activation_, parameter_, S::load_n(rest, left)), left);
      }
    }
  }

 private:
  using F = typename S::F;

  const float* copy(Arena& arena, const float* from) const {
    const int whole = (width_ + S::kLanes - 1) / S::kLanes * S::kLanes;
    float* to = static_cast<float*>(arena.take(static_cast<size_t>(whole) * sizeof(float)));
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
