// A plan to put samples to: one step of a GRU with a state for each stream.
#pragma once

#include <memory>

#include "native/harness.h"

namespace check {

using Plan = std::unique_ptr<rta_plan, void (*)(rta_plan*)>;

// float32 [inputs] in and [units] out, weights by chance. nullptr where no kernel computes it, which is a failure.
// threads: most of a call.
Plan gru_plan(Random& random, int64_t streams, int64_t inputs, int64_t units, int threads = 1);

}  // namespace check
