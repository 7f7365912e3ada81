#include "bindings/cascade/cascade.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/realtime/loop_steps.h"
#include "bindings/timer.h"

namespace nb = nanobind;

namespace rta_torch {

Cascade::Cascade(nb::list plans, nb::list heads, nb::list exits, const std::vector<bool>& advance)
    : cascade_(nullptr, rta_cascade_destroy) {
  kept_ = nb::make_tuple(plans, heads);
  for (nb::handle one : plans) plans_.push_back(nb::cast<Plan*>(one));
  for (nb::handle one : heads) heads_.push_back(nb::cast<Plan*>(one));
  all_ = plans_;
  all_.insert(all_.end(), heads_.begin(), heads_.end());
  if (plans_.empty() || exits.size() != plans_.size() || advance.size() != plans_.size() ||
      (!heads_.empty() && heads_.size() != plans_.size()))
    throw nb::value_error("as many exits and heads as plans");
  std::vector<rta_cascade_stage> stages;
  for (size_t i = 0; i < plans_.size(); ++i) {
    const auto [in, out] = plans_[i]->single(1);
    rta_cascade_stage s = {};
    s.plan = plans_[i]->core();
    s.head = heads_.empty() ? nullptr : heads_[i]->core();
    s.in_bytes = static_cast<int64_t>(in);
    s.out_bytes = static_cast<int64_t>(out);
    s.streams = plans_[i]->state_samples();
    s.advance = advance[i];
    const auto [test, below, threshold, index, function] =
        nb::cast<std::tuple<int, bool, float, int64_t, nb::object>>(exits[i]);
    s.exit = {static_cast<rta_exit_test>(test), below, threshold, index, nullptr, nullptr};
    if (!function.is_none()) {
      tests_.push_back(std::make_unique<Test>(Test{this, function}));
      s.exit.call = &Cascade::call_test;
      s.exit.self = tests_.back().get();
    }
    stages.push_back(s);
  }
  const Plan* answers = heads_.empty() ? plans_[0] : heads_[0];
  in_bytes_ = stages[0].in_bytes;
  width_ = static_cast<int64_t>(answers->single(1).second / sizeof(float));
  cascade_.reset(rta_cascade_create(stages.data(), static_cast<int>(stages.size()), width_, 1));
  if (!cascade_) throw nb::value_error(rta_cascade_error());
}

bool Cascade::fits(nb::handle x, nb::handle out, nb::handle features, Pointers& p) const {
  const nb::tuple given = nb::make_tuple(x);
  if (heads_.empty()) return plans_[0]->fits(given, out, p);
  Pointers head;
  if (!plans_[0]->fits(given, features, p) || !heads_[0]->fits(nb::make_tuple(features), out, head)) return false;
  p.out[0] = head.out[0];
  const auto *from = static_cast<const char*>(p.in[0]), *to = static_cast<const char*>(p.out[0]);
  const int64_t written = p.rows * width_ * static_cast<int64_t>(sizeof(float));
  return p.rows == head.rows && (to + written <= from || from + p.rows * in_bytes_ <= to);
}

void Cascade::reserve(int64_t rows) {
  if (rta_cascade_reserve(get(), rows) != 0) throw std::bad_alloc();
}

void Cascade::set_threshold(int stage, float threshold) {
  if (rta_cascade_set_threshold(get(), stage, threshold) != 0) throw nb::index_error(rta_cascade_error());
}

void Cascade::refuse_looped() const {
  for (const Plan* plan : all_) plan->refuse_looped();
}

void Cascade::refresh(int64_t rows) {
  for (const auto& [of, cost_ns] : costs_)
    if (of == rows) rta_cascade_deadline(get(), deadline_ns_, cost_ns.data());
  for (size_t i = 0; i < plans_.size(); ++i)
    rta_cascade_set_plan(get(), static_cast<int>(i), plans_[i]->core(), heads_.empty() ? nullptr : heads_[i]->core());
}

rta_step Cascade::loop_step(int64_t rows) {
  refresh(rows);
  loop_rows_ = rows;
  rta_step step = rta_cascade_step(get(), rows);
  const auto refreshed = [](void* self) {
    static_cast<Cascade*>(self)->refresh(static_cast<Cascade*>(self)->loop_rows_);
    return static_cast<Cascade*>(self)->get();
  };
  static const auto now = +refreshed;
  step.self = this;
  step.step = [](void* self, const void* const* in, void* const* out) {
    return rta_cascade_run(now(self), in[0], static_cast<float*>(out[0]), static_cast<Cascade*>(self)->loop_rows_);
  };
  step.prepare = [](void* self) { return rta_cascade_prefault(now(self)); };
  if (step.state_bytes) {
    step.save = [](void* self, void* to) { rta_cascade_save_state(now(self), to); };
    step.load = [](void* self, const void* from) { return rta_cascade_load_state(now(self), from); };
    step.reset = [](void* self) { rta_cascade_reset(now(self)); };
  }
  return step;
}

void Cascade::run(const void* in, void* out, int64_t rows, bool through) {
  refuse_looped();
  refresh(rows);
  auto* y = static_cast<float*>(out);
  const int code = through ? rta_cascade_run_through(get(), in, y, rows) : rta_cascade_run(get(), in, y, rows);
  if (code == 0) {
    rows_ = rows;
    return;
  }
  rows_ = 0;
  if (raised_) std::rethrow_exception(std::exchange(raised_, nullptr));
  raise_refusal();
}

bool Cascade::run_tensors(nb::handle x, nb::handle out, nb::handle features, bool through) {
  Pointers p;
  if (!fits(x, out, features, p)) return false;
  if (p.rows > 1) reserve(p.rows);
  run(p.in[0], p.out[0], p.rows, through);
  return true;
}

nb::object Cascade::profile(nb::handle x, nb::handle out, nb::handle features, int64_t calls, bool through) {
  Pointers p;
  if (!fits(x, out, features, p)) return nb::none();
  reserve(p.rows);
  std::vector<int64_t> ns(static_cast<size_t>(calls));
  std::vector<int32_t> left(static_cast<size_t>(calls * p.rows));
  const auto* in = static_cast<const char*>(p.in[0]);
  auto* y = static_cast<float*>(p.out[0]);
  for (int64_t i = 0; i < calls; ++i) {
    const int64_t start = rta_timer::now_ns();
    run(in + i * p.rows * in_bytes_, y + i * p.rows * width_, p.rows, through);
    ns[static_cast<size_t>(i)] = rta_timer::now_ns() - start;
    std::copy_n(rta_cascade_exits(get()), p.rows, left.begin() + i * p.rows);
  }
  return nb::make_tuple(nb::bytes(reinterpret_cast<const char*>(ns.data()), ns.size() * sizeof(int64_t)),
                        nb::bytes(reinterpret_cast<const char*>(left.data()), left.size() * sizeof(int32_t)));
}

void Cascade::deadline(int64_t deadline_ns, const std::vector<int64_t>& cost_ns, int64_t rows) {
  if (cost_ns.size() != plans_.size()) throw nb::value_error("a cost for each stage");
  if (rta_cascade_deadline(get(), deadline_ns, cost_ns.data()) != 0) throw nb::value_error(rta_cascade_error());
  deadline_ns_ = deadline_ns;
  for (auto& [of, old] : costs_)
    if (of == rows) {
      old = cost_ns;
      return;
    }
  costs_.emplace_back(rows, cost_ns);
}

nb::bytes Cascade::exits() const {
  return nb::bytes(reinterpret_cast<const char*>(rta_cascade_exits(get())),
                   static_cast<size_t>(rows_) * sizeof(int32_t));
}

std::vector<int64_t> Cascade::counts() const {
  const int64_t* first = rta_cascade_counts(get());
  return {first, first + plans_.size()};
}

nb::bytes Cascade::save_state() const {
  refuse_looped();
  std::vector<char> bytes(rta_cascade_state_bytes(get()));
  rta_cascade_save_state(get(), bytes.data());
  return nb::bytes(bytes.data(), bytes.size());
}

void Cascade::load_state(nb::bytes from) {
  refuse_looped();
  if (from.size() != rta_cascade_state_bytes(get())) throw nb::value_error("the state of another cascade");
  if (rta_cascade_load_state(get(), from.data()) != 0) throw nb::value_error(rta_cascade_error());
}

void Cascade::reset() {
  refuse_looped();
  refresh(0);
  rta_cascade_reset(get());
}

// function(address of the answer) gives a number. What it raises ends the run, and is raised from there.
int Cascade::call_test(void* self, const float* y, int64_t, float* score) {
  const auto* test = static_cast<Test*>(self);
  try {
    *score = nb::cast<float>(test->function(reinterpret_cast<uint64_t>(y)));
    return 0;
  } catch (...) {
    test->owner->raised_ = std::current_exception();
    return -1;
  }
}

namespace {

// A cascade with its tensors, as module.cc's Bound.
class BoundCascade {
 public:
  BoundCascade(nb::object cascade, nb::object x, nb::object out, nb::object features, bool through)
      : owner_(cascade), cascade_(nb::cast<Cascade*>(cascade)), through_(through) {
    if (!cascade_->fits(x, out, features, p_)) throw nb::value_error("tensors do not fit the cascade");
    held_ = nb::make_tuple(x, out, held(x), held(out));
    cascade_->reserve(p_.rows);
  }
  void operator()() const { cascade_->run(p_.in[0], p_.out[0], p_.rows, through_); }
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  nb::object owner_, held_;
  Cascade* cascade_;
  bool through_;
  Pointers p_;
};

// x, y: as of plan_step.
LoopStep cascade_step(nb::object cascade, nb::handle x, nb::handle out, nb::handle features) {
  LoopStep made;
  auto* native = nb::cast<Cascade*>(cascade);
  Pointers p;
  if (!native->fits(x, out, features, p)) throw nb::value_error("tensors do not fit the cascade");
  native->reserve(p.rows);
  made.step = native->loop_step(p.rows);
  made.single(made.step.in_bytes, made.step.out_bytes);
  made.kept = cascade;
  for (Plan* plan : native->all()) made.held.push_back(&plan->looped);
  return made;
}

// function: as of call_test, or None. y, scores: addresses of float32 [rows, width] and [rows].
void exit_scores(int test, int64_t index, uint64_t y, int64_t width, int64_t rows, uint64_t scores) {
  const rta_exit exit = {static_cast<rta_exit_test>(test), 0, 0.0f, index, nullptr, nullptr};
  rta_exit_scores(&exit, reinterpret_cast<const float*>(y), width, rows, reinterpret_cast<float*>(scores));
}

}  // namespace

void add_cascade(nb::module_& m) {
  const auto features = [] { return nb::arg("features").none(); };
  nb::class_<Cascade>(m, "Cascade", "The native side of rtaccel.Cascade.")
      .def(nb::init<nb::list, nb::list, nb::list, const std::vector<bool>&>(), nb::arg("plans"), nb::arg("heads"),
           nb::arg("exits"), nb::arg("advance"))
      .def("run", &Cascade::run_tensors, nb::arg("x").none(), nb::arg("out").none(), features(), nb::arg("through"))
      .def("profile", &Cascade::profile, nb::arg("x"), nb::arg("out"), features(), nb::arg("calls"), nb::arg("through"))
      .def("reserve", &Cascade::reserve, nb::arg("rows"))
      .def("set_threshold", &Cascade::set_threshold, nb::arg("stage"), nb::arg("threshold"))
      .def("deadline", &Cascade::deadline, nb::arg("deadline_ns"), nb::arg("cost_ns"), nb::arg("rows"))
      .def("exit_of_row", &Cascade::exit_of_row, nb::arg("row"))
      .def("exits", &Cascade::exits)
      .def("save_state", &Cascade::save_state)
      .def("load_state", &Cascade::load_state, nb::arg("state"))
      .def("reset", &Cascade::reset)
      .def_prop_ro("late", &Cascade::late)
      .def_prop_ro("counts", &Cascade::counts)
      .def_prop_ro("rows", &Cascade::rows);
  nb::class_<BoundCascade>(m, "BoundCascade", "A cascade bound to its tensors: call it to read and write them.")
      .def(nb::init<nb::object, nb::object, nb::object, nb::object, bool>(), nb::arg("cascade"), nb::arg("x").none(),
           nb::arg("out").none(), features(), nb::arg("through"))
      .def("__call__", &BoundCascade::operator())
      .def("time", &BoundCascade::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
  m.def("cascade_step", &cascade_step, nb::arg("cascade"), nb::arg("x"), nb::arg("out"), features());
  m.def("exit_scores", &exit_scores, nb::arg("test"), nb::arg("index"), nb::arg("y"), nb::arg("width"), nb::arg("rows"),
        nb::arg("scores"));
}

}  // namespace rta_torch
