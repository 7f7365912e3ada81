// Steps of a loop, made of what Python has: plans, C functions, callables, a simulated model.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <memory>
#include <vector>

#include "bindings/plan.h"
#include "rta_loop_sim.h"

namespace rta_torch {

struct LoopStep {
  rta_step step = {};
  rta_step_ports ports = {};
  nanobind::object kept;                 // what the step needs alive
  std::shared_ptr<void> call;            // of a plan or a loaded model: the step's `self`
  std::vector<std::atomic<bool>*> held;  // of the models that it runs: true while a loop has them

  // Of one tensor in and one out.
  void single(size_t in_bytes, size_t out_bytes);
};

// A simulated world and its slots.
struct LoopSim {
  rta_sim* sim = nullptr;
  nanobind::list slots;
  ~LoopSim() { rta_sim_destroy(sim); }
};

void add_loop_steps(nanobind::module_& m);

}  // namespace rta_torch
