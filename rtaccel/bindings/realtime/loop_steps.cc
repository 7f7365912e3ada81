#include "bindings/realtime/loop_steps.h"

#include <nanobind/stl/string.h>

#include <stdexcept>

#include "bindings/realtime/latest.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

const PlanCall* call_of(void* self) { return static_cast<PlanCall*>(self); }

// x, y: tensors of the shapes that will go through it; their memory is not kept.
LoopStep plan_step(nb::object plan, nb::handle x, nb::handle y) {
  LoopStep made;
  Pointers p;
  auto* native = nb::cast<Plan*>(plan);
  if (!native->fits(x, y, p)) throw nb::value_error("tensors do not fit the plan");
  const auto [in, out] = native->single(p.rows);
  if (!in) throw nb::value_error("a plan with several inputs or outputs");
  const bool past = native->state_samples() > 0;
  made.call = std::make_shared<PlanCall>(PlanCall{native, p.rows});
  made.kept = plan;
  rta_step& s = made.step;
  s.step = [](void* self, const void* const* in, void* const* out) {
    return rta_plan_run(call_of(self)->plan->core(), in, out, call_of(self)->rows);
  };
  s.self = made.call.get();
  s.in_bytes = in;
  s.out_bytes = out;
  if (past) {
    s.state_bytes = rta_plan_state_bytes(native->core());
    s.save = [](void* self, void* to) { rta_plan_save_state(call_of(self)->plan->core(), to); };
    s.load = [](void* self, const void* from) { return rta_plan_load_state(call_of(self)->plan->core(), from); };
    s.reset = [](void* self) { rta_plan_reset(call_of(self)->plan->core(), 0, call_of(self)->plan->state_samples()); };
  }
  s.error = [](void*) { return rta_error(); };
  s.identity = native;
  s.warm = 1;
  return made;
}

LoopStep c_step(uint64_t function, uint64_t self, size_t in_bytes, size_t out_bytes, bool warm, nb::object kept) {
  LoopStep made;
  made.kept = kept;
  made.step.step = reinterpret_cast<rta_step_fn>(function);
  made.step.self = reinterpret_cast<void*>(self);
  made.step.in_bytes = in_bytes;
  made.step.out_bytes = out_bytes;
  made.step.warm = warm;
  return made;
}

// function(in address, out address) gives 0, and never raises. It takes the GIL: outside of what the loop promises.
LoopStep python_step(nb::object function, size_t in_bytes, size_t out_bytes) {
  LoopStep made;
  made.kept = function;
  made.step.step = [](void* self, const void* const* in, void* const* out) {
    const nb::gil_scoped_acquire gil;
    try {
      return nb::cast<int>(nb::handle(static_cast<PyObject*>(self))(reinterpret_cast<uint64_t>(in[0]),
                                                                    reinterpret_cast<uint64_t>(out[0])));
    } catch (...) {
      return -1;
    }
  };
  made.step.self = function.ptr();
  made.step.in_bytes = in_bytes;
  made.step.out_bytes = out_bytes;
  made.step.error = [](void*) { return "a Python function of the loop raised"; };
  return made;
}

double number(nb::dict d, const char* key) { return d.contains(key) ? nb::cast<double>(d[key]) : 0.0; }
int64_t whole(nb::dict d, const char* key) { return d.contains(key) ? nb::cast<int64_t>(d[key]) : 0; }

}  // namespace

void add_loop_steps(nb::module_& m) {
  nb::class_<LoopStep>(m, "LoopStep")
      .def_prop_ro("in_bytes", [](const LoopStep& s) { return s.step.in_bytes; })
      .def_prop_ro("out_bytes", [](const LoopStep& s) { return s.step.out_bytes; });
  m.def("plan_step", &plan_step, nb::arg("plan"), nb::arg("x"), nb::arg("y"));
  m.def("c_step", &c_step, nb::arg("function"), nb::arg("self"), nb::arg("in_bytes"), nb::arg("out_bytes"),
        nb::arg("warm"), nb::arg("kept").none());
  m.def("python_step", &python_step, nb::arg("function"), nb::arg("in_bytes"), nb::arg("out_bytes"));

  nb::class_<LoopSim>(m, "LoopSim", "A simulated world for a loop, native/realtime/rta_loop_sim.h.")
      .def("__init__",
           [](LoopSim* self, nb::dict d, nb::object slot) {
             new (self) LoopSim();
             rta_sim_config c = {};
             c.seed = static_cast<uint64_t>(whole(d, "seed"));
             c.produce_ns = whole(d, "produce_ns");
             c.delay_ns = whole(d, "delay_ns");
             c.p_gap = number(d, "p_gap");
             c.gap_ns = whole(d, "gap_ns");
             c.p_burst = number(d, "p_burst");
             c.p_reorder = number(d, "p_reorder");
             c.p_clock = number(d, "p_clock");
             c.clock_ns = whole(d, "clock_ns");
             c.wake_ns = whole(d, "wake_ns");
             c.p_stall = number(d, "p_stall");
             c.stall_ns = whole(d, "stall_ns");
             c.step_ns = whole(d, "step_ns");
             c.p_slow = number(d, "p_slow");
             c.slow_ns = whole(d, "slow_ns");
             self->sim = rta_sim_create(&c, latest_of(slot));
             self->slot = slot;
             if (!self->sim) throw nb::value_error("the slot is taken or too small, or produce_ns is 0");
           })
      .def("calm", [](LoopSim& s) { rta_sim_calm(s.sim); })
      .def("step",
           [](nb::object self, size_t bytes) {
             LoopStep made;
             made.kept = self;
             made.step = rta_sim_step(nb::cast<LoopSim&>(self).sim, bytes);
             return made;
           })
      .def("counts", [](const LoopSim& s) {
        const rta_sim_counts c = rta_sim_counted(s.sim);
        nb::dict d;
        d["produced"] = c.produced;
        d["lost"] = c.lost;
        d["arrived"] = c.arrived;
        d["overtaken"] = c.overtaken;
        d["future"] = c.future;
        d["gaps"] = c.gaps;
        d["bursts"] = c.bursts;
        d["clock_steps"] = c.clock_steps;
        d["stalls"] = c.stalls;
        d["slow_steps"] = c.slow_steps;
        d["cycles"] = c.cycles;
        d["stale"] = c.stale;
        d["misses"] = c.misses;
        d["skipped"] = c.skipped;
        d["fresh"] = c.fresh;
        d["waiting"] = c.waiting;
        return d;
      });
}

}  // namespace rta_torch
