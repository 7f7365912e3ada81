// How sure an answer is, as one number.
#pragma once

#include "rta_cascade.h"

namespace rta_cascades {

// NaN where the answer holds a NaN or +inf; for RTA_EXIT_VALUE also where it holds -inf, which else is a probability of
// 0. Not for RTA_EXIT_CALL and RTA_EXIT_NEVER.
float score(rta_exit_test test, int64_t index, const float* y, int64_t width);

// Whether a score passes; NaN does not.
inline bool passes(const rta_exit& exit, float score) {
  return exit.below ? score <= exit.threshold : score >= exit.threshold;
}

}  // namespace rta_cascades
