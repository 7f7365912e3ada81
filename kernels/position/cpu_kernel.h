// Position on the CPU: a constant row added to each step. The contract is in contract.py.
#pragma once

#include "_common/checks.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class PositionStage final : public Stage {
 public:
  explicit PositionStage(const StageSpec& spec)
      : x_(spec.in(0)), y_(spec.out(0)), width_(static_cast<int>(spec.output(0).width)) {
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("position: takes float32");
    expect_ports(spec, 1, 1);
    expect_shape(spec.output(0), x_.steps, x_.width, "y");
    const int64_t count = elements(spec.input(0));
    float* table = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
    __builtin_memcpy(table, spec.attrs.floats("table", count), static_cast<size_t>(count) * sizeof(float));
    table_ = table;
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      const float* table = table_ + r % x_.steps * width_;
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
        store_part<S>(y + i, S::add(load_part<S>(x + i, n), load_part<S>(table + i, n)), n);
      });
    }
  }

 private:
  GraphIO x_, y_;
  int width_;
  const float* table_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "position", "cpu", nullptr, create_stage<PositionStage<S>>);
}

}  // namespace rta
