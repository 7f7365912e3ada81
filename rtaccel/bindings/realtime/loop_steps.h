// Steps of a loop, made of what Python has: plans, C functions, callables, a simulated model.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "bindings/plan.h"
#include "rta_loop_sim.h"

namespace rta_torch {

// A plan with its rows, as a step's `self`.
struct PlanCall {
  Plan* plan;
  int64_t rows;
};

struct LoopStep {
  rta_step step = {};
  nanobind::object kept;           // what the step needs alive
  std::shared_ptr<PlanCall> call;  // of a plan
  std::vector<Plan*> plans;        // of a cascade
};

// A simulated world and its slot.
struct LoopSim {
  rta_sim* sim = nullptr;
  nanobind::object slot;
  ~LoopSim() { rta_sim_destroy(sim); }
};

void add_loop_steps(nanobind::module_& m);

}  // namespace rta_torch
