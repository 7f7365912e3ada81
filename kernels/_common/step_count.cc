#include "_common/step_count.h"

#include <cstdio>

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
    std::snprintf(reason_, sizeof reason_, "%s: a stream at step %.0f, of 0..%lld; reset it", op,
                  static_cast<double>(at), static_cast<long long>(rows_ - 1));
    return reason_;
  }
  return nullptr;
}

}  // namespace rta
