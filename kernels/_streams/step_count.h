// The steps that a stream has made since its reset, as a state [1, 1] of float32, and the rows of a table that they
// choose.
#pragma once

#include "_common/checks.h"

namespace rta {

class StepCount {
 public:
  StepCount() = default;
  // in, out: the ports of the count. rows: of the table; a step beyond them is refused.
  StepCount(const StageSpec& spec, int in, int out, int64_t rows);

  const char* check(const char* op, const Run& run) const;

  // The row of a sample's step, which is counted. Row 0 for a count that no stream can have.
  int64_t next(const Run& run, int64_t sample) const {
    const float at = *reinterpret_cast<const float*>(count_.row(run, sample));
    *reinterpret_cast<float*>(count_out_.row(run, sample)) = at + 1.0f;
    return at >= 0.0f && at < static_cast<float>(rows_) ? static_cast<int64_t>(at) : 0;
  }

 private:
  static constexpr int64_t kMaxRows = 1 << 23;  // float32 counts to it

  GraphIO count_{-1, 0, 0, 0}, count_out_{-1, 0, 0, 0};
  int64_t rows_ = 0;
  mutable char reason_[96] = "";  // of the last refusal; a plan runs one call at a time
};

}  // namespace rta
