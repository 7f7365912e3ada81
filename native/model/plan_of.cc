// The plan that a file describes, with the best kernels of this machine.
#include "plan_of.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "_core/guard.h"
#include "prepacked.h"

namespace rta {
namespace {

std::vector<rta_attr> asked(const Artifact& from, const Artifact::StageRecord& stage) {
  std::vector<rta_attr> attrs = stage.attrs;
  rta_attr input{};
  input.name = "input_dtype";
  input.kind = RTA_ATTR_TEXT;
  input.text = dtype_name(from.values[static_cast<size_t>(stage.inputs[0])].dtype);
  attrs.insert(attrs.begin(), input);
  return attrs;
}

// Why no kernel of this build computes the stage here.
[[noreturn]] void refuse_stage(const Artifact::StageRecord& stage, const Attrs& attrs) {
  char reasons[256] = "";
  size_t length = 0;
  for (const KernelRow* row = first_kernel(); row; row = row->next) {
    if (std::strcmp(row->kernel.op, stage.op) != 0) continue;
    const size_t left = sizeof reasons - length;
    const int more = std::snprintf(reasons + length, left, "%s%s: %s", length ? "; " : "", row->kernel.name,
                                   rejected(row->kernel, attrs));
    length += std::min(static_cast<size_t>(more), left - 1);
  }
  refuse(RTA_NO_KERNEL, "stage %s: no kernel for %s here (%s)", stage.name, stage.op,
         length ? reasons : "this build has none");
}

// The preferred kernel of those that can compute the stage on this machine; refuses with the reasons where there is
// none.
const char* kernel_for(const Artifact& from, const Artifact::StageRecord& stage) {
  const std::vector<rta_attr> listed = asked(from, stage);
  const Attrs attrs(listed.data(), static_cast<int>(listed.size()));
  const IsaSet here = isa_level();
  const Kernel* best = nullptr;
  for (const KernelRow* row = first_kernel(); row; row = row->next) {
    const Kernel& kernel = row->kernel;
    if (*kernel.op != *stage.op || std::strcmp(kernel.op, stage.op) != 0) continue;
    if ((best && kernel.rank <= best->rank) || kernel.isa > here || unsuited(kernel, attrs)) continue;
    best = &kernel;
  }
  if (!best) refuse_stage(stage, attrs);
  return best->name;
}

struct KeptBytes : Kept {
  explicit KeptBytes(Bytes own) : bytes(std::move(own)) {}
  Bytes bytes;
};

}  // namespace

PlanPtr plan_of(const Artifact& from, Bytes bytes, int threads, std::vector<Chosen>* chosen, const char** why) {
  PlanPtr plan(rta_plan_create(from.packed_bytes));
  if (!plan) refuse(RTA_CANNOT_READ, "%s", last_error().c_str());
  plan->most_bytes = from.most_bytes;
  for (const Artifact::ValueRecord& v : from.values)
    checked(rta_plan_value(plan.get(), v.dtype, v.steps, v.width, v.role), RTA_BAD_FORMAT, "a value");
  std::vector<const char*> kernels;
  for (const Artifact::StageRecord& s : from.stages) kernels.push_back(kernel_for(from, s));
  const PrepackedSection section(from, kernels);
  const bool stays = bytes.stays();
  if (why) *why = from.prepacked && !stays ? "a copy of the file is not kept here" : section.why();
  for (size_t i = 0; i < from.stages.size(); ++i) {
    const Artifact::StageRecord& s = from.stages[i];
    const char* kernel = kernels[i];
    if (stays) plan->prepacked = section.stage(i);
    checked(
        rta_plan_stage(plan.get(), s.op, kernel, s.inputs.data(), static_cast<int>(s.inputs.size()), s.outputs.data(),
                       static_cast<int>(s.outputs.size()), s.attrs.data(), static_cast<int>(s.attrs.size())),
        RTA_BAD_FORMAT, s.name);
    if (chosen) chosen->push_back({s.name, s.op, kernel});
  }
  if (plan->in_place) {
    plan->kept_start = bytes.data();
    plan->kept_bytes = bytes.size();
    plan->kept = std::make_unique<KeptBytes>(std::move(bytes));
  }
  if (threads != 1) checked(rta_plan_threads(plan.get(), threads), RTA_BAD_ARGUMENT, "threads");
  checked(rta_plan_finish(plan.get(), from.streams, from.memory), RTA_BAD_FORMAT, "the plan");
  if (from.state_bytes) {
    const size_t held = rta_plan_state_bytes(plan.get());
    const bool fits = from.state_bytes == held;
    if (!fits || rta_plan_load_state(plan.get(), from.states) != 0) {
      plan.reset();  // its threads end before the refusal
      if (!fits) refuse(RTA_BAD_FORMAT, "%zu bytes of states, where the plan holds %zu", from.state_bytes, held);
      refuse(RTA_BAD_FORMAT, "states: %s", last_error().c_str());
    }
  }
  return plan;
}

}  // namespace rta
