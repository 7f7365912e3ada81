// Position on the CPU: a constant row added to each step. The contract is in contract.py.
#pragma once

#include "_common/checks.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class PositionStage final : public Stage {
 public:
  explicit PositionStage(const StageSpec& spec)
      : x_(spec.in(0)),
        count_(spec.in(1)),
        y_(spec.out(0)),
        count_out_(spec.out(1)),
        width_(static_cast<int>(spec.output(0).width)),
        rows_(x_.steps) {
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("position: takes float32");
    streams_ = spec.attrs.has("stream") && flag(spec.attrs, "stream");  // older files have none
    expect_ports(spec, streams_ ? 2 : 1, streams_ ? 2 : 1);
    expect_shape(spec.output(0), x_.steps, x_.width, "y");
    if (streams_) {
      expect(x_.steps == 1 && width_ > 0, "%lld time steps", static_cast<long long>(x_.steps));
      expect_value(spec.input(1), RTA_FLOAT32, 1, 1, "count");
      expect_value(spec.output(1), RTA_FLOAT32, 1, 1, "count");
      rows_ = spec.attrs.count("table") / width_;
      expect(rows_ < kMaxRows, "%lld positions", static_cast<long long>(rows_));
    }
    const int64_t count = product(rows_, width_);
    float* table = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
    __builtin_memcpy(table, spec.attrs.floats("table", count), static_cast<size_t>(count) * sizeof(float));
    table_ = table;
  }

  bool updates(int in, int out) const override { return in == 1 && out == 1; }
  bool checks() const override { return streams_; }
  bool looks_at(int in) const override { return streams_ && in == 1; }
  const char* check(const Run& run) const override {
    for (int64_t s = 0; streams_ && s < run.samples; ++s) {
      const float at = *reinterpret_cast<const float*>(count_.row(run, s));
      if (at >= 0.0f && at < static_cast<float>(rows_)) continue;
      __builtin_snprintf(reason_, sizeof reason_, "position: a stream at step %.0f, of 0..%lld; reset it",
                         static_cast<double>(at), static_cast<long long>(rows_ - 1));
      return reason_;
    }
    return nullptr;
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      const float* table = table_ + (streams_ ? next(run, r) : r % x_.steps) * width_;
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
        store_part<S>(y + i, S::add(load_part<S>(x + i, n), load_part<S>(table + i, n)), n);
      });
    }
  }

 private:
  static constexpr int64_t kMaxRows = 1 << 23;  // float32 counts to it

  // The step that a stream is at, and counts it.
  int64_t next(const Run& run, int64_t sample) const {
    const float at = *reinterpret_cast<const float*>(count_.row(run, sample));
    *reinterpret_cast<float*>(count_out_.row(run, sample)) = at + 1.0f;
    return at >= 0.0f && at < static_cast<float>(rows_) ? static_cast<int64_t>(at) : 0;
  }

  GraphIO x_, count_, y_, count_out_;
  int width_;
  int64_t rows_;
  bool streams_;
  const float* table_;
  mutable char reason_[80];  // of the last refusal; a plan runs one call at a time
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "position", "cpu", nullptr, create_stage<PositionStage<S>>);
}

}  // namespace rta
