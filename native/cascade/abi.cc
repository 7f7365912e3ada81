// The C ABI of cascades: what is refused when one is made, states, the step of a loop.
#include <cstdarg>
#include <cstdio>
#include <new>

#include "cascade.h"
#include "exit_scores.h"

namespace rta_cascades {
namespace {

thread_local char reason[512] = "";

const char* wrong(const rta_cascade_stage* stages, int count, int64_t width, int i) {
  const rta_cascade_stage& s = stages[i];
  if (!s.plan || s.in_bytes < 1 || s.out_bytes < 1 || s.streams < 0)
    return "has no plan, or nothing goes in or comes out";
  if (!s.head != !stages[0].head) return "has a head where another has none";
  if (!s.head && s.in_bytes != stages[0].in_bytes) return "reads another input than the first";
  if (!s.head && s.out_bytes != width * static_cast<int64_t>(sizeof(float))) return "gives another answer";
  if (s.head && i && s.in_bytes != stages[i - 1].out_bytes) return "reads other features than the one before gives";
  if (s.head && s.streams) return "has states and a head";
  if (i + 1 == count) return nullptr;
  const rta_exit& e = s.exit;
  if (e.test < RTA_EXIT_NEVER || e.test > RTA_EXIT_CALL) return "has a test that there is not";
  if (e.test == RTA_EXIT_CALL && !e.call) return "has a test without a function";
  if (e.test == RTA_EXIT_VALUE && (e.index < 0 || e.index >= width)) return "looks at a value that there is not";
  if (e.test >= RTA_EXIT_CONFIDENCE && e.test <= RTA_EXIT_ENERGY && width < 2)
    return "has a softmax over one value, which is always sure";
  return nullptr;
}

rta_cascade* of(void* self) { return static_cast<rta_cascade*>(self); }

}  // namespace

int failed(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  return -1;
}

namespace {

// Whether there is such a cascade; else -1 is said and why.
bool is(const rta_cascade* c) {
  if (!c) failed("the cascade is NULL; rta_cascade_create said why when it was not made");
  return c != nullptr;
}
bool has(const rta_cascade* c, int stage) {
  if (!is(c)) return false;
  const bool held = stage >= 0 && static_cast<size_t>(stage) < c->stages.size();
  if (!held) failed("stage %d of %zu", stage, c->stages.size());
  return held;
}

}  // namespace
}  // namespace rta_cascades

using namespace rta_cascades;

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API const char* rta_cascade_error(void) { return reason; }

RTA_API rta_cascade* rta_cascade_create(const rta_cascade_stage* stages, int count, int64_t width, int64_t max_rows) {
  if (!stages || count < 1 || width < 1 || max_rows < 0) return failed("no stages, or no answers"), nullptr;
  for (int i = 0; i < count; ++i)
    if (const char* why = wrong(stages, count, width, i)) return failed("stage %d %s", i, why), nullptr;
  try {
    auto made = std::make_unique<rta_cascade>();
    made->stages.assign(stages, stages + count);
    made->stages.back().exit = {};
    made->counts.assign(static_cast<size_t>(count), 0);
    made->cost_ns.assign(static_cast<size_t>(count), 0);
    made->width = width;
    made->heads = stages[0].head != nullptr;
    if (!made->reserve(max_rows)) return failed("no memory for %lld rows", static_cast<long long>(max_rows)), nullptr;
    return made.release();
  } catch (const std::bad_alloc&) {
    return failed("no memory"), nullptr;
  }
}

RTA_API void rta_cascade_destroy(rta_cascade* c) { delete c; }

RTA_API int rta_cascade_reserve(rta_cascade* c, int64_t rows) {
  if (!is(c)) return -1;
  try {
    if (c->reserve(rows)) return 0;
  } catch (const std::bad_alloc&) {
  }
  return failed("no memory for %lld rows", static_cast<long long>(rows));
}

RTA_API int rta_cascade_run(rta_cascade* c, const void* in, float* out, int64_t rows) {
  return is(c) ? c->run(in, out, rows, false) : -1;
}
RTA_API int rta_cascade_run_through(rta_cascade* c, const void* in, float* out, int64_t rows) {
  return is(c) ? c->run(in, out, rows, true) : -1;
}
RTA_API const int32_t* rta_cascade_exits(const rta_cascade* c) { return is(c) ? c->exits.data() : nullptr; }
RTA_API const int64_t* rta_cascade_counts(const rta_cascade* c) { return is(c) ? c->counts.data() : nullptr; }

RTA_API int rta_cascade_set_plan(rta_cascade* c, int stage, rta_plan* plan, rta_plan* head) {
  if (!has(c, stage)) return -1;
  if (!plan || !head != !c->heads) return failed("stage %d has a plan, and a head where others have one", stage);
  c->stages[static_cast<size_t>(stage)].plan = plan;
  c->stages[static_cast<size_t>(stage)].head = head;
  return 0;
}
RTA_API int rta_cascade_set_threshold(rta_cascade* c, int stage, float threshold) {
  if (!has(c, stage)) return -1;
  c->stages[static_cast<size_t>(stage)].exit.threshold = threshold;
  return 0;
}

RTA_API int rta_cascade_deadline(rta_cascade* c, int64_t deadline_ns, const int64_t* cost_ns) {
  if (!is(c)) return -1;
  if (deadline_ns && !cost_ns) return failed("a deadline without the costs of stages");
  for (size_t i = 0; i < c->stages.size(); ++i)
    if (deadline_ns && c->stages[i].streams && c->stages[i].advance)
      return failed("stage %zu advances its states, for which a deadline leaves no time", i);
  c->deadline_ns = deadline_ns;
  if (deadline_ns) c->cost_ns.assign(cost_ns, cost_ns + c->stages.size());
  return 0;
}
RTA_API int64_t rta_cascade_late(const rta_cascade* c) { return is(c) ? c->late : -1; }

RTA_API size_t rta_cascade_state_bytes(const rta_cascade* c) {
  size_t bytes = 0;
  if (!is(c)) return bytes;
  for (const rta_cascade_stage& s : c->stages) bytes += s.streams ? rta_plan_state_bytes(s.plan) : 0;
  return bytes;
}
RTA_API void rta_cascade_save_state(const rta_cascade* c, void* to) {
  if (!is(c)) return;
  auto* at = static_cast<char*>(to);
  for (const rta_cascade_stage& s : c->stages) {
    if (!s.streams) continue;
    rta_plan_save_state(s.plan, at);
    at += rta_plan_state_bytes(s.plan);
  }
}
RTA_API int rta_cascade_load_state(rta_cascade* c, const void* from) {
  if (!is(c)) return -1;
  const auto* at = static_cast<const char*>(from);
  for (const rta_cascade_stage& s : c->stages) {
    if (!s.streams) continue;
    if (rta_plan_load_state(s.plan, at) != 0) return failed("%s", rta_error());
    at += rta_plan_state_bytes(s.plan);
  }
  return 0;
}
RTA_API void rta_cascade_reset(rta_cascade* c) {
  if (!is(c)) return;
  for (const rta_cascade_stage& s : c->stages)
    if (s.streams) rta_plan_reset(s.plan, 0, s.streams);
}

RTA_API int rta_cascade_prefault(rta_cascade* c) {
  if (!is(c)) return -1;
  for (const rta_cascade_stage& s : c->stages)
    for (rta_plan* plan : {s.plan, s.head})
      if (plan && rta_plan_prefault(plan) < 0) return failed("%s", rta_error());
  return 0;
}

RTA_API rta_step rta_cascade_step(rta_cascade* c, int64_t rows) {
  rta_step step = {};
  if (!is(c)) return step;
  c->loop_rows = rows;
  step.step = [](void* self, const void* const* in, void* const* out) {
    return rta_cascade_run(of(self), in[0], static_cast<float*>(out[0]), of(self)->loop_rows);
  };
  step.self = c;
  step.in_bytes = static_cast<size_t>(rows * c->stages[0].in_bytes);
  step.out_bytes = static_cast<size_t>(rows * c->width) * sizeof(float);
  step.state_bytes = rta_cascade_state_bytes(c);
  if (step.state_bytes) {
    step.save = [](void* self, void* to) { rta_cascade_save_state(of(self), to); };
    step.load = [](void* self, const void* from) { return rta_cascade_load_state(of(self), from); };
    step.reset = [](void* self) { rta_cascade_reset(of(self)); };
  }
  step.error = [](void*) { return rta_cascade_error(); };
  step.identity = c;
  step.warm = 1;
  step.prepare = [](void* self) { return rta_cascade_prefault(of(self)); };
  return step;
}

RTA_API int rta_exit_scores(const rta_exit* exit, const float* y, int64_t width, int64_t rows, float* scores) {
  for (int64_t r = 0; r < rows; ++r)
    if (exit->test == RTA_EXIT_CALL) {
      if (exit->call(exit->self, y + r * width, width, scores + r) != 0) return failed("the test failed");
    } else {
      scores[r] = score(exit->test, exit->index, y + r * width, width);
    }
  return 0;
}

}  // extern "C"
