#include "_streams/step_count.h"

namespace rta {

StepCount::StepCount(const StageSpec& spec, int in, int out, int64_t rows)
    : count_(spec.in(in)), count_out_(spec.out(out)), rows_(rows) {
  expect_value(spec.input(in), RTA_FLOAT32, 1, 1, "count");
  expect_value(spec.output(out), RTA_FLOAT32, 1, 1, "count");
  expect(rows > 0 && rows < kMaxRows, "a table of %lld steps", static_cast<long long>(rows));
}

const char* StepCount::check(const char* op, const Run& run) const {
  for (int64_t s = 0; s < run.samples; ++s) {
    const float at = *reinterpret_cast<const float*>(count_.row(run, s));
    if (at >= 0.0f && at < static_cast<float>(rows_)) continue;
    const int64_t step = at >= 0.0f && at < static_cast<float>(2 * kMaxRows) ? static_cast<int64_t>(at) : -1;
    __builtin_snprintf(reason_, sizeof reason_, "%s: a stream at step %lld, of 0..%lld; reset it", op,
                       static_cast<long long>(step), static_cast<long long>(rows_ - 1));
    return reason_;
  }
  return nullptr;
}

}  // namespace rta
