#include "bindings/realtime/loop.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/realtime/latest.h"
#include "bindings/realtime/loop_steps.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

// A loop with the objects it needs; its plans refuse other calls while it runs.
class LoopHandle {
 public:
  LoopHandle(nb::object read, nb::object write, nb::list steps, nb::list fallback, nb::list forecast, nb::dict d,
             std::optional<std::string> name, nb::object sim) {
    kept_ = nb::list();
    rta_loop_config c = {};
    c.read = latest_of(read);
    c.write = latest_of(write);
    const std::vector<rta_step> s = native(steps), f = native(fallback), g = native(forecast);
    c.steps = s.data();
    c.step_count = static_cast<int>(s.size());
    c.fallback = f.data();
    c.fallback_count = static_cast<int>(f.size());
    c.forecast = g.data();
    c.forecast_count = static_cast<int>(g.size());
    const auto get = [&](const char* key) { return nb::cast<int64_t>(d[key]); };
    c.period_ns = get("period_ns");
    c.deadline_ns = get("deadline_ns");
    c.max_age_ns = get("max_age_ns");
    c.spin_ns = get("spin_ns");
    c.on_miss = static_cast<int>(get("on_miss"));
    c.on_stale = static_cast<int>(get("on_stale"));
    c.on_old = static_cast<int>(get("on_old"));
    c.on_gap = static_cast<int>(get("on_gap"));
    c.priority = static_cast<int>(get("priority"));
    c.cpu = static_cast<int>(get("cpu"));
    c.warm = static_cast<int>(get("warm"));
    c.lock_memory = static_cast<int>(get("lock_memory"));
    c.strict = static_cast<int>(get("strict"));
    c.name = name ? name->c_str() : nullptr;
    rta_loop_clock clock;
    if (!sim.is_none()) {
      rta_sim* world = nb::cast<LoopSim&>(sim).sim;
      clock = rta_sim_clock(world);
      c.clock = &clock;
      rta_sim_expect(world, &c);
      kept_.append(sim);
    }
    kept_.append(read);
    kept_.append(write);
    loop_ = rta_loop_create(&c);
    if (!loop_) fail();
  }
  LoopHandle(const LoopHandle&) = delete;
  ~LoopHandle() {
    {
      const nb::gil_scoped_release release;
      rta_loop_destroy(loop_);
    }
    hold(false);
  }

  void every(int64_t n, nb::list steps, nb::object read, nb::object write) {
    const std::vector<rta_step> s = native(steps);
    if (!read.is_none()) kept_.append(read);
    kept_.append(write);
    if (rta_loop_every(loop_, n, s.data(), static_cast<int>(s.size()), read.is_none() ? nullptr : latest_of(read),
                       latest_of(write)) != 0)
      fail();
  }

  std::string start() {
    for (const Plan* plan : parts_)
      if (plan->looped.load(std::memory_order_relaxed))
        throw nb::value_error("a model of a cascade is in another loop");
    int code;
    {
      const nb::gil_scoped_release release;  // a step in Python is measured too
      code = rta_loop_start(loop_);
    }
    if (code != 0) fail();
    hold(true);
    return rta_loop_refused(loop_);
  }

  void run(int64_t cycles) {
    int code;
    {
      const nb::gil_scoped_release release;
      code = rta_loop_run(loop_, cycles);
    }
    if (code != 0) fail();
  }

  void stop() { rta_loop_stop(loop_); }

  bool wait(int64_t timeout_ns) {
    int ended;
    {
      const nb::gil_scoped_release release;
      ended = rta_loop_wait(loop_, timeout_ns);
    }
    if (ended) hold(false);
    return ended != 0;
  }

  // Keeps the GIL until the loop has made so many more cycles, or for so long: whether it did. For a test.
  bool hold_gil(int64_t cycles, int64_t timeout_ns) const {
    const rta_loop_stats* s = rta_loop_statistics(loop_);
    const int64_t wanted = __atomic_load_n(&s->cycles, __ATOMIC_RELAXED) + cycles;
    const int64_t until = rta_latest_now_ns() + timeout_ns;
    while (rta_latest_now_ns() < until)
      if (__atomic_load_n(&s->cycles, __ATOMIC_RELAXED) >= wanted) return true;
    return false;
  }

  std::optional<std::string> failure() const {
    const char* text = rta_loop_failure(loop_);
    return text ? std::optional<std::string>(text) : std::nullopt;
  }
  uint64_t stats() const { return reinterpret_cast<uint64_t>(rta_loop_statistics(loop_)); }

 private:
  [[noreturn]] static void fail() { throw nb::value_error(rta_loop_error_text()); }

  std::vector<rta_step> native(nb::list given) {
    std::vector<rta_step> made;
    for (nb::handle one : given) {
      made.push_back(nb::cast<LoopStep&>(one).step);
      if (nb::cast<LoopStep&>(one).call) plans_.push_back(nb::cast<LoopStep&>(one).call);
      const std::vector<Plan*>& parts = nb::cast<LoopStep&>(one).plans;
      parts_.insert(parts_.end(), parts.begin(), parts.end());
      kept_.append(one);
    }
    return made;
  }

  void hold(bool on) {
    if (held_ == on) return;
    held_ = on;
    for (const auto& call : plans_) call->plan->looped = on;
    for (Plan* plan : parts_) plan->looped = on;
  }

  rta_loop* loop_ = nullptr;
  nb::list kept_;
  std::vector<std::shared_ptr<PlanCall>> plans_;
  std::vector<Plan*> parts_;  // of cascades: their steps have no identity that says which plans they run
  bool held_ = false;
};

}  // namespace

void add_loop(nb::module_& m) {
  add_loop_steps(m);
  add_loop_stats(m);
  nb::class_<LoopHandle>(m, "LoopHandle", "The native side of rtaccel.Loop.")
      .def(nb::init<nb::object, nb::object, nb::list, nb::list, nb::list, nb::dict, std::optional<std::string>,
                    nb::object>(),
           nb::arg("read"), nb::arg("write"), nb::arg("steps"), nb::arg("fallback"), nb::arg("forecast"),
           nb::arg("settings"), nb::arg("name").none(), nb::arg("sim").none())
      .def("every", &LoopHandle::every, nb::arg("n"), nb::arg("steps"), nb::arg("read").none(), nb::arg("write"))
      .def("start", &LoopHandle::start)
      .def("run", &LoopHandle::run)
      .def("stop", &LoopHandle::stop)
      .def("wait", &LoopHandle::wait)
      .def("hold_gil", &LoopHandle::hold_gil)
      .def_prop_ro("failure", &LoopHandle::failure)
      .def_prop_ro("stats", &LoopHandle::stats);
}

}  // namespace rta_torch
