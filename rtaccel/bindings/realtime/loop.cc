#include "bindings/realtime/loop.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "bindings/c_text.h"
#include "bindings/realtime/latest.h"
#include "bindings/realtime/loop_steps.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

// A loop with the objects it needs; its plans refuse other calls while it runs.
class LoopHandle {
 public:
  LoopHandle(nb::list read, nb::list write, nb::list steps, nb::list fallback, nb::list forecast, nb::dict d,
             std::optional<std::string> name, nb::object sim) {
    kept_ = nb::list();
    rta_loop_config c = {};
    const Steps s = native(steps), f = native(fallback), g = native(forecast);
    c.steps = s.steps.data();
    c.step_count = static_cast<int>(s.steps.size());
    c.fallback = f.steps.data();
    c.fallback_count = static_cast<int>(f.steps.size());
    c.forecast = g.steps.data();
    c.forecast_count = static_cast<int>(g.steps.size());
    const std::vector<rta_latest*> in = slots(read), out = slots(write);
    rta_loop_ports p = ports_of(in, out, s);
    p.fallback = f.ports.data();
    p.forecast = g.ports.data();
    p.any_age = nb::cast<uint64_t>(d["any_age"]);
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
    c.name = name ? c_text(*name) : nullptr;
    rta_loop_clock clock;
    if (!sim.is_none()) {
      rta_sim* world = nb::cast<LoopSim&>(sim).sim;
      clock = rta_sim_clock(world);
      c.clock = &clock;
      rta_sim_expect(world, &c);
      kept_.append(sim);
    }
    loop_ = rta_loop_create_ports(&c, &p);
    if (!loop_) fail();
  }
  LoopHandle(const LoopHandle&) = delete;
  ~LoopHandle() {
    {
      const nb::gil_scoped_release release;
      rta_loop_destroy(loop_);
    }
    give_back();
  }

  void every(int64_t n, nb::list steps, nb::list read, nb::list write) {  // no read: the loop's own
    const size_t before = flags_.size();
    const Steps s = native(steps);
    const std::vector<rta_latest*> in = slots(read), out = slots(write);
    const rta_loop_ports p = ports_of(in, out, s);
    if (rta_loop_every_ports(loop_, n, s.steps.data(), static_cast<int>(s.steps.size()), &p) == 0) return;
    flags_.resize(before);
    fail();
  }

  // From here on other calls of the models are refused.
  std::string start() {
    std::sort(flags_.begin(), flags_.end());  // a model may be in several chains of one loop
    flags_.erase(std::unique(flags_.begin(), flags_.end()), flags_.end());
    for (std::atomic<bool>* flag : flags_) {
      if (flag->exchange(true)) {
        give_back();
        throw nb::value_error("a model of this loop is in another one that runs, or in a batcher");
      }
      held_.push_back(flag);
    }
    int code;
    {
      const nb::gil_scoped_release release;  // a step in Python is measured too
      code = rta_loop_start(loop_);
    }
    if (code != 0) {
      give_back();
      fail();
    }
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

  int wait(int64_t timeout_ns) {
    int ended;
    {
      const nb::gil_scoped_release release;
      ended = rta_loop_wait(loop_, timeout_ns);
    }
    if (ended > 0) give_back();
    return ended;
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

  struct Steps {
    std::vector<rta_step> steps;
    std::vector<rta_step_ports> ports;
  };

  Steps native(nb::list given) {
    Steps made;
    for (nb::handle one : given) {
      const auto& step = nb::cast<LoopStep&>(one);
      made.steps.push_back(step.step);
      made.ports.push_back(step.ports);
      flags_.insert(flags_.end(), step.held.begin(), step.held.end());
      kept_.append(one);
    }
    return made;
  }

  std::vector<rta_latest*> slots(nb::list given) {
    std::vector<rta_latest*> made;
    for (nb::handle one : given) {
      made.push_back(latest_of(one));
      kept_.append(one);
    }
    return made;
  }

  static rta_loop_ports ports_of(const std::vector<rta_latest*>& in, const std::vector<rta_latest*>& out,
                                 const Steps& steps) {
    rta_loop_ports p = {};
    p.bytes = sizeof p;
    p.read = in.empty() ? nullptr : in.data();
    p.read_count = static_cast<int>(in.size());
    p.write = out.data();
    p.write_count = static_cast<int>(out.size());
    p.steps = steps.ports.data();
    return p;
  }

  void give_back() {
    for (std::atomic<bool>* flag : held_) *flag = false;
    held_.clear();
  }

  rta_loop* loop_ = nullptr;
  nb::list kept_;
  std::vector<std::atomic<bool>*> flags_, held_;  // of the models of its steps; those that are set
};

}  // namespace

void add_loop(nb::module_& m) {
  add_loop_steps(m);
  add_loop_stats(m);
  nb::class_<LoopHandle>(m, "LoopHandle", "The native side of rtaccel.Loop.")
      .def(nb::init<nb::list, nb::list, nb::list, nb::list, nb::list, nb::dict, std::optional<std::string>,
                    nb::object>(),
           nb::arg("read"), nb::arg("write"), nb::arg("steps"), nb::arg("fallback"), nb::arg("forecast"),
           nb::arg("settings"), nb::arg("name").none(), nb::arg("sim").none())
      .def("every", &LoopHandle::every, nb::arg("n"), nb::arg("steps"), nb::arg("read"), nb::arg("write"))
      .def("start", &LoopHandle::start)
      .def("run", &LoopHandle::run)
      .def("stop", &LoopHandle::stop)
      .def("wait", &LoopHandle::wait)
      .def("hold_gil", &LoopHandle::hold_gil)
      .def_prop_ro("failure", &LoopHandle::failure)
      .def_prop_ro("stats", &LoopHandle::stats);
}

}  // namespace rta_torch
