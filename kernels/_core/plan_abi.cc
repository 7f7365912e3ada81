// The C ABI of plans (rta_plan.h): exceptions end here.
#include <link.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "_core/plan.h"

using namespace rta;

namespace {

thread_local std::string last_error;

// Runs f; an exception becomes rta_error() and the value for failure.
template <class F, class T>
T guarded(T failure, F f) {
  try {
    return f();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error in the native core";
  }
  return failure;
}

// Adds up the executable segments of the library that holds `address`.
struct Code {
  uintptr_t address;
  size_t bytes;
};
int add_code(dl_phdr_info* info, size_t, void* to) {
  Code& code = *static_cast<Code*>(to);
  size_t bytes = 0;
  bool found = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X)) continue;
    bytes += segment.p_memsz;
    found |= code.address - (info->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
  }
  if (found) code.bytes = bytes;
  return found;
}

}  // namespace

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API const char* rta_error(void) { return last_error.c_str(); }

RTA_API rta_plan* rta_plan_create(size_t weight_bytes) {
  return guarded<>(static_cast<rta_plan*>(nullptr), [&] { return new rta_plan(weight_bytes); });
}

constexpr int64_t kMaxTick = int64_t{1} << 62;  // no plan is called more often

RTA_API void rta_plan_destroy(rta_plan* plan) { delete plan; }

RTA_API int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {
  return guarded(-1, [&] { return plan->add_value(dtype, steps, width, role); });
}

RTA_API int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel_name, const int* inputs, int input_count,
                           const int* outputs, int output_count, const rta_attr* attrs, int attr_count) {
  return guarded(-1, [&] {
    plan->add_stage(op, kernel_name, inputs, input_count, outputs, output_count, Attrs(attrs, attr_count));
    return 0;
  });
}

RTA_API int rta_plan_threads(rta_plan* plan, int threads) {
  return guarded(-1, [&] {
    plan->use_threads(threads);
    return 0;
  });
}

RTA_API int rta_plan_finish(rta_plan* plan, int64_t state_samples, int64_t memory) {
  return guarded(-1, [&] {
    plan->finish(state_samples, memory);
    return 0;
  });
}

RTA_API int rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples) {
  if (plan->checks) {
    if (const char* reason = plan->check(inputs, samples)) {
      last_error = reason;
      return -1;
    }
  }
  plan->run(inputs, outputs, samples);
  if (plan->refuses) {
    if (const char* reason = plan->refusal()) {
      last_error = reason;
      return -1;
    }
  }
  return 0;
}

RTA_API double rta_plan_profile(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples,
                                int64_t calls, int64_t* ticks) {
  return guarded(-1.0, [&] {
    if (plan->checks)
      if (const char* reason = plan->check(inputs, samples)) fail("%s", reason);
    const double ns = plan->profile(inputs, outputs, samples, calls, ticks);
    if (plan->refuses)
      if (const char* reason = plan->refusal()) fail("%s", reason);
    return ns;
  });
}

RTA_API int rta_plan_parts(const rta_plan* plan, int stage, int64_t samples) { return plan->parts(stage, samples); }
RTA_API int rta_plan_running_threads(const rta_plan* plan) { return plan->running_threads(); }

RTA_API int64_t rta_plan_prefault(rta_plan* plan) {
  return guarded(int64_t{-1}, [&] { return plan->prefault(); });
}

RTA_API int rta_plan_lock(rta_plan* plan) {
  return guarded(-1, [&] {
    if (!plan->lock()) fail("%s", std::strerror(errno));
    return 0;
  });
}

RTA_API void rta_plan_reset(rta_plan* plan, int64_t first, int64_t count) { plan->reset(first, count); }

// The states, then how long each sample stays corrupted, then the tick: a ring buffer means nothing without it.
RTA_API size_t rta_plan_state_bytes(const rta_plan* plan) {
  return plan->state->used() + plan->nonfinite.size() * sizeof(int64_t) + sizeof plan->tick;
}

RTA_API void rta_plan_save_state(const rta_plan* plan, void* to) {
  char* at = static_cast<char*>(to);
  const size_t held = plan->state->used(), nonfinite = plan->nonfinite.size() * sizeof(int64_t);
  if (held) std::memcpy(at, plan->held[0], held);  // states lie back to back
  if (nonfinite) std::memcpy(at + held, plan->nonfinite.data(), nonfinite);
  std::memcpy(at + held + nonfinite, &plan->tick, sizeof plan->tick);
}

// Bytes of any origin: the tick is an index into rings, and the marks count calls.
RTA_API int rta_plan_load_state(rta_plan* plan, const void* from) {
  return guarded(-1, [&] {
    const char* at = static_cast<const char*>(from);
    const size_t held = plan->state->used(), nonfinite = plan->nonfinite.size() * sizeof(int64_t);
    int64_t tick, left;
    std::memcpy(&tick, at + held + nonfinite, sizeof tick);
    if (tick < 0 || tick > kMaxTick) fail("a state after %lld calls", static_cast<long long>(tick));
    for (size_t i = 0; i < nonfinite; i += sizeof left) {  // a loop loads after each run for nothing: no allocation
      std::memcpy(&left, at + held + i, sizeof left);
      if (left != 0 && left != plan->memory && (left < 0 || left > plan->memory))
        fail("a mark for %lld calls", static_cast<long long>(left));
    }
    if (held) std::memcpy(plan->held[0], at, held);
    if (nonfinite) std::memcpy(plan->nonfinite.data(), at + held, nonfinite);
    plan->tick = tick;
    return 0;
  });
}

RTA_API size_t rta_plan_packed_bytes(const rta_plan* plan) { return plan->weights.used(); }
RTA_API size_t rta_plan_scratch_bytes(const rta_plan* plan) {
  return plan->scratch ? plan->scratch->used() + plan->state->used() : 0;
}

RTA_API size_t rta_code_bytes(void) {
  Code code{reinterpret_cast<uintptr_t>(&rta_code_bytes), 0};
  dl_iterate_phdr(add_code, &code);
  return code.bytes;
}
}
