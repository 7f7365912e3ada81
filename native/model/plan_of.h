// From the records of a file to a plan.
#pragma once

#include <memory>
#include <vector>

#include "_core/memory.h"
#include "_core/plan.h"
#include "artifact.h"
#include "open_model.h"

namespace rta {

struct Destroy {
  void operator()(rta_plan* plan) const { rta_plan_destroy(plan); }
};
using PlanPtr = std::unique_ptr<rta_plan, Destroy>;

// from: of these bytes. why: where it is not NULL, receives why packed weights in them were not taken.
PlanPtr plan_of(const Artifact& from, Bytes bytes, int threads, std::vector<Chosen>* chosen, const char** why);

}  // namespace rta
