#include "bindings/realtime/loop_steps.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "bindings/artifact/model.h"
#include "bindings/realtime/latest.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

using Sizes = std::vector<size_t>;

rta_step_ports ports_of(const Sizes& in, const Sizes& out) {
  if (in.empty() || out.empty() || in.size() > RTA_LOOP_PORTS || out.size() > RTA_LOOP_PORTS)
    throw nb::value_error("a step of 1 to 16 tensors in and out");
  rta_step_ports p = {};
  p.inputs = static_cast<int>(in.size());
  p.outputs = static_cast<int>(out.size());
  std::copy(in.begin(), in.end(), p.in_bytes);
  std::copy(out.begin(), out.end(), p.out_bytes);
  return p;
}

// A plan with its rows, as a step's `self`. The plan within may be exchanged until the loop starts (Plan::adopt).
struct PlanCall {
  Plan* plan;
  int64_t rows;
};
const PlanCall* call_of(void* self) { return static_cast<PlanCall*>(self); }

// inputs: tensors of the shapes that will go through it; their memory is not kept.
LoopStep plan_step(nb::object plan, nb::handle inputs) {
  LoopStep made;
  Pointers p;
  auto* native = nb::cast<Plan*>(plan);
  if (!native->fits_inputs(inputs, p)) throw nb::value_error("tensors do not fit the plan");
  made.ports = ports_of(native->sizes(false, p.rows), native->sizes(true, p.rows));
  const auto call = std::make_shared<PlanCall>(PlanCall{native, p.rows});
  made.call = call;
  made.kept = plan;
  rta_step& s = made.step;
  s.step = [](void* self, const void* const* in, void* const* out) {
    return rta_plan_run(call_of(self)->plan->core(), in, out, call_of(self)->rows);
  };
  s.self = call.get();
  if (native->state_samples() > 0) {
    s.state_bytes = rta_plan_state_bytes(native->core());
    s.save = [](void* self, void* to) { rta_plan_save_state(call_of(self)->plan->core(), to); };
    s.load = [](void* self, const void* from) { return rta_plan_load_state(call_of(self)->plan->core(), from); };
    s.reset = [](void* self) { rta_plan_reset(call_of(self)->plan->core(), 0, call_of(self)->plan->state_samples()); };
  }
  s.error = [](void*) { return rta_error(); };
  s.prepare = [](void* self) { return rta_plan_prefault(call_of(self)->plan->core()) < 0 ? -1 : 0; };
  s.identity = native;
  s.warm = 1;
  made.held.push_back(&native->looped);
  return made;
}

LoopStep model_step(nb::object model, int64_t batch) {
  LoopStep made;
  auto& opened = nb::cast<rta_model_py::Opened&>(model);
  const auto call = std::make_shared<rta_plan_step>();
  made.call = call;
  if (rta_step_of_model(opened.get(), batch, call.get(), &made.step, &made.ports) != 0)
    throw nb::value_error(rta_loop_error_text());
  made.kept = model;
  made.held.push_back(&opened.looped);
  return made;
}

LoopStep c_step(uint64_t function, uint64_t self, const Sizes& in_bytes, const Sizes& out_bytes, bool warm,
                nb::object kept) {
  LoopStep made;
  made.kept = kept;
  made.step.step = reinterpret_cast<rta_step_fn>(function);
  made.step.self = reinterpret_cast<void*>(self);
  made.ports = ports_of(in_bytes, out_bytes);
  made.step.warm = warm;
  return made;
}

// A function of Python with the numbers of its tensors.
struct PythonCall {
  nb::object function;
  int inputs, outputs;
};

template <class T>
nb::tuple addresses(T* const* pointers, int count) {
  nb::list all;
  for (int i = 0; i < count; ++i) all.append(reinterpret_cast<uint64_t>(pointers[i]));
  return nb::tuple(all);
}

// function(addresses in, addresses out) gives 0, and never raises. It takes the GIL: outside of what the loop promises.
LoopStep python_step(nb::object function, const Sizes& in_bytes, const Sizes& out_bytes) {
  LoopStep made;
  made.ports = ports_of(in_bytes, out_bytes);
  auto* call = new PythonCall{function, made.ports.inputs, made.ports.outputs};
  made.kept = nb::capsule(call, [](void* p) noexcept { delete static_cast<PythonCall*>(p); });
  made.step.step = [](void* self, const void* const* in, void* const* out) {
    const nb::gil_scoped_acquire gil;
    const auto* c = static_cast<const PythonCall*>(self);
    try {
      return nb::cast<int>(c->function(addresses(in, c->inputs), addresses(out, c->outputs)));
    } catch (...) {
      return -1;
    }
  };
  made.step.self = call;
  made.step.error = [](void*) { return "a Python function of the loop raised"; };
  return made;
}

double number(nb::dict d, const char* key) { return d.contains(key) ? nb::cast<double>(d[key]) : 0.0; }
int64_t whole(nb::dict d, const char* key) { return d.contains(key) ? nb::cast<int64_t>(d[key]) : 0; }

rta_sim_config sim_config(nb::dict d) {
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
  c.sleep_ns = whole(d, "sleep_ns");
  return c;
}

}  // namespace

void LoopStep::single(size_t in_bytes, size_t out_bytes) { ports = ports_of({in_bytes}, {out_bytes}); }

void add_loop_steps(nb::module_& m) {
  nb::class_<LoopStep>(m, "LoopStep");
  m.def("plan_step", &plan_step, nb::arg("plan"), nb::arg("inputs"));
  m.def("model_step", &model_step, nb::arg("model"), nb::arg("batch"));
  m.def("c_step", &c_step, nb::arg("function"), nb::arg("self"), nb::arg("in_bytes"), nb::arg("out_bytes"),
        nb::arg("warm"), nb::arg("kept").none());
  m.def("python_step", &python_step, nb::arg("function"), nb::arg("in_bytes"), nb::arg("out_bytes"));

  nb::class_<LoopSim>(m, "LoopSim", "A simulated world for a loop, native/realtime/rta_loop_sim.h.")
      .def("__init__",
           [](LoopSim* self, nb::dict d, nb::object slot) {
             new (self) LoopSim();
             const rta_sim_config c = sim_config(d);
             self->sim = rta_sim_create(&c, latest_of(slot));
             self->slots.append(slot);
             if (!self->sim) throw nb::value_error("the slot is taken or too small, or produce_ns is 0");
           })
      .def("add",
           [](LoopSim& self, nb::dict d, nb::object slot) {
             const rta_sim_config c = sim_config(d);
             if (rta_sim_add(self.sim, &c, latest_of(slot)) != 0)
               throw nb::value_error("the slot is taken or too small, or produce_ns is 0");
             self.slots.append(slot);
           })
      .def("calm", [](LoopSim& s) { rta_sim_calm(s.sim); })
      .def("step",
           [](nb::object self, const Sizes& bytes) {
             LoopStep made;
             made.kept = self;
             made.ports = ports_of(bytes, bytes);
             made.step = rta_sim_step_ports(nb::cast<LoopSim&>(self).sim, &made.ports);
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
