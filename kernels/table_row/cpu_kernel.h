// Table row on the CPU: a row of a constant table by a count that a stream keeps. The contract is in contract.py.
//
// Floor: one row read and written.
#pragma once

#include "_common/checks.h"
#include "_streams/step_count.h"

namespace rta {

template <class S>
class TableRowStage final : public Stage {
 public:
  explicit TableRowStage(const StageSpec& spec)
      : y_(spec.out(0)), bytes_(static_cast<size_t>(spec.output(0).width) * 4) {
    expect_ports(spec, 1, 2);
    const int64_t width = spec.output(0).width, count = spec.attrs.count("table");
    expect_value(spec.output(0), RTA_FLOAT32, 1, width, "y");
    expect(width > 0 && count % width == 0, "a table of %lld numbers", static_cast<long long>(count));
    steps_ = StepCount(spec, 0, 1, count / width);
    float* table = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
    __builtin_memcpy(table, spec.attrs.floats("table", count), static_cast<size_t>(count) * sizeof(float));
    table_ = table;
  }

  bool updates(int in, int out) const override { return in == 0 && out == 1; }
  bool checks() const override { return true; }
  const char* check(const Run& run) const override { return steps_.check("table_row", run); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s)
      __builtin_memcpy(y_.row(run, s), table_ + steps_.next(run, s) * y_.width, bytes_);
  }

 private:
  GraphIO y_;
  size_t bytes_;
  StepCount steps_;
  const float* table_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "table_row", "cpu", nullptr, create_stage<TableRowStage<S>>);
}

}  // namespace rta
