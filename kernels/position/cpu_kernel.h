// Position on the CPU: a constant row added to each step. The contract is in contract.py.
#pragma once

#include "_common/checks.h"
#include "_simd/row.h"
#include "_streams/step_count.h"

namespace rta {

template <class S>
class PositionStage final : public Stage {
 public:
  explicit PositionStage(const StageSpec& spec)
      : x_(spec.in(0)), y_(spec.out(0)), width_(static_cast<int>(spec.output(0).width)) {
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("position: takes float32");
    streams_ = spec.attrs.has("stream") && flag(spec.attrs, "stream");  // older files have none
    expect_ports(spec, streams_ ? 2 : 1, streams_ ? 2 : 1);
    expect_shape(spec.output(0), x_.steps, x_.width, "y");
    int64_t rows = x_.steps;
    if (streams_) {
      expect(x_.steps == 1 && width_ > 0, "%lld time steps", static_cast<long long>(x_.steps));
      rows = spec.attrs.count("table") / width_;
      steps_ = StepCount(spec, 1, 1, rows);
    }
    const int64_t count = product(rows, width_);
    float* table = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
    __builtin_memcpy(table, spec.attrs.floats("table", count), static_cast<size_t>(count) * sizeof(float));
    table_ = table;
  }

  bool updates(int in, int out) const override { return in == 1 && out == 1; }
  bool checks() const override { return streams_; }
  bool looks_at(int in) const override { return streams_ && in == 1; }
  const char* check(const Run& run) const override { return streams_ ? steps_.check("position", run) : nullptr; }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      const float* table = table_ + (streams_ ? steps_.next(run, r) : r % x_.steps) * width_;
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
        store_part<S>(y + i, S::add(load_part<S>(x + i, n), load_part<S>(table + i, n)), n);
      });
    }
  }

 private:
  GraphIO x_, y_;
  int width_;
  bool streams_;
  StepCount steps_;
  const float* table_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "position", "cpu", nullptr, create_stage<PositionStage<S>>);
}

}  // namespace rta
