// The C ABI of plans (rta_plan.h): exceptions end here.
#if defined(__ELF__)
#include <link.h>
#endif

#include <cerrno>
#include <cstring>

#include "_core/guard.h"
#include "_core/plan.h"

using namespace rta;

#ifdef RTA_PACKED
constinit thread_local Landing* rta::landing = nullptr;
#endif

ErrorText& rta::last_error() {
  static thread_local ErrorText text;
  return text;
}

#if defined(__ELF__)
namespace {

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
#endif

namespace {

constexpr char kNoPlan[] = "the plan is NULL; rta_plan_create said why when it was not made";

int failed(const char* reason, int code = -1) {
  last_error() = reason;
  return code;
}

// guarded(), of a plan that may not have been made.
template <class F, class T>
T of_plan(const rta_plan* plan, T failure, F f) {
  return guarded(failure, [&] {
    if (!plan) fail("%s", kNoPlan);
    return f();
  });
}

}  // namespace

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API const char* rta_error(void) { return last_error().c_str(); }

RTA_API rta_plan* rta_plan_create(size_t weight_bytes) {
  return guarded<>(static_cast<rta_plan*>(nullptr), [&] { return new rta_plan(weight_bytes); });
}

RTA_API void rta_plan_destroy(rta_plan* plan) {
#ifdef RTA_PACKED
  // Its memory goes with the region; threads are all that has to end.
  if (plan) plan->pool.reset();
#else
  delete plan;
#endif
}

RTA_API int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {
  return of_plan(plan, -1, [&] { return plan->add_value(dtype, steps, width, role); });
}

RTA_API int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel_name, const int* inputs, int input_count,
                           const int* outputs, int output_count, const rta_attr* attrs, int attr_count) {
  return of_plan(plan, -1, [&] {
    plan->add_stage(op, kernel_name, inputs, input_count, outputs, output_count, Attrs(attrs, attr_count));
    return 0;
  });
}

RTA_API int rta_plan_threads(rta_plan* plan, int threads) {
  return of_plan(plan, -1, [&] {
    plan->use_threads(threads);
    return 0;
  });
}

RTA_API int rta_plan_finish(rta_plan* plan, int64_t state_samples, int64_t memory) {
  return of_plan(plan, -1, [&] {
    plan->finish(state_samples, memory);
    return 0;
  });
}

RTA_API int rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples) {
  if (!plan) [[unlikely]]
    return failed(kNoPlan);
  if (plan->offered.load(std::memory_order_relaxed)) plan->take();
  if (plan->checks)
    if (const char* reason = plan->check(inputs, samples)) return failed(reason);
  plan->run(inputs, outputs, samples);
  if (plan->refuses)
    if (const char* reason = plan->refusal()) return failed(reason);
  return 0;
}

RTA_API double rta_plan_profile(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples,
                                int64_t calls, int64_t* ticks) {
  return of_plan(plan, -1.0, [&] {
    if (plan->offered.load(std::memory_order_relaxed)) plan->take();
    if (plan->checks)
      if (const char* reason = plan->check(inputs, samples)) fail("%s", reason);
    const double ns = plan->profile(inputs, outputs, samples, calls, ticks);
    if (plan->refuses)
      if (const char* reason = plan->refusal()) fail("%s", reason);
    return ns;
  });
}

RTA_API int rta_plan_offer(rta_plan* plan, rta_plan* next) {
  return of_plan(plan, -1, [&] {
    if (!next || !plan->offer(next)) fail("a plan of other values, stages or threads, or one that waits already");
    return 0;
  });
}
RTA_API int rta_plan_withdraw(rta_plan* plan, rta_plan* next) { return plan && next && plan->withdraw(next); }
RTA_API int rta_plan_pending(const rta_plan* plan) {
  return plan && plan->offered.load(std::memory_order_acquire) != nullptr;
}

RTA_API int rta_plan_parts(const rta_plan* plan, int stage, int64_t samples) {
  return plan ? plan->parts(stage, samples) : 0;
}
RTA_API int rta_plan_running_threads(const rta_plan* plan) { return plan ? plan->running_threads() : 0; }

RTA_API int64_t rta_plan_prefault(rta_plan* plan) {
  return of_plan(plan, int64_t{-1}, [&] { return plan->prefault(); });
}

RTA_API int rta_plan_lock(rta_plan* plan) {
  return of_plan(plan, -1, [&] {
    if (!plan->lock()) fail("%s", std::strerror(errno));
    return 0;
  });
}

RTA_API void rta_plan_reset(rta_plan* plan, int64_t first, int64_t count) {
  if (plan) plan->reset(first, count);
}

// The states; for each sample how long it stays corrupted and how many steps it is behind; then the tick: a ring buffer
// means nothing without it.
RTA_API size_t rta_plan_state_bytes(const rta_plan* plan) {
  if (!plan) return 0;
  return plan->state->used() + 2 * plan->nonfinite.size() * sizeof(int64_t) + sizeof plan->tick;
}

RTA_API void rta_plan_save_state(const rta_plan* plan, void* to) {
  if (!plan) return;
  char* at = static_cast<char*>(to);
  const size_t held = plan->state->used(), each = plan->nonfinite.size() * sizeof(int64_t);
  if (held) std::memcpy(at, plan->held[0], held);  // states lie back to back
  if (each) std::memcpy(at + held, plan->nonfinite.data(), each);
  if (each) std::memcpy(at + held + each, plan->behind.data(), each);
  std::memcpy(at + held + 2 * each, &plan->tick, sizeof plan->tick);
}

// Bytes of any origin: ticks are an index into rings, and the marks count calls.
RTA_API int rta_plan_load_state(rta_plan* plan, const void* from) {
  return of_plan(plan, -1, [&] {
    const char* at = static_cast<const char*>(from);
    const size_t held = plan->state->used(), each = plan->nonfinite.size() * sizeof(int64_t);
    const auto number = [at](size_t byte) {
      int64_t value;
      std::memcpy(&value, at + byte, sizeof value);
      return value;
    };
    const int64_t tick = number(held + 2 * each);
    if (tick < 0 || tick > kMaxTick) fail("a state after %lld calls", static_cast<long long>(tick));
    bool uneven = false;
    for (size_t i = 0; i < each; i += sizeof(int64_t)) {  // a loop loads after each run for nothing: no allocation
      const int64_t left = number(held + i), steps = number(held + each + i);
      if (left != 0 && left != plan->memory && (left < 0 || left > plan->memory))
        fail("a mark for %lld calls", static_cast<long long>(left));
      if (steps > tick || steps < tick - kMaxTick) fail("a stream %lld steps behind", static_cast<long long>(steps));
      uneven |= steps != 0;
    }
    if (held) std::memcpy(plan->held[0], at, held);
    if (each) std::memcpy(plan->nonfinite.data(), at + held, each);
    if (each) std::memcpy(plan->behind.data(), at + held + each, each);
    plan->tick = tick;
    plan->uneven = uneven;
    return 0;
  });
}

RTA_API int rta_plan_run_some(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples,
                              const int64_t* streams) {
  if (!plan) [[unlikely]]
    return failed(kNoPlan);
  if (plan->offered.load(std::memory_order_relaxed)) plan->take();
  const char* reason = plan->refuse_list(samples, streams);
  if (reason) return failed(reason, -2);
  if (plan->checks) reason = plan->check_some(inputs, samples, streams);
  if (!reason) {
    plan->run_some(inputs, outputs, samples, streams);
    if (plan->refuses) reason = plan->refusal();
  }
  return reason ? failed(reason) : 0;
}

RTA_API size_t rta_plan_stream_bytes(const rta_plan* plan) { return plan ? plan->stream_bytes() : 0; }
RTA_API int rta_plan_save_stream(const rta_plan* plan, int64_t stream, void* to) {
  return of_plan(plan, -1, [&] {
    if (stream < 0 || stream >= static_cast<int64_t>(plan->nonfinite.size())) fail("a stream that there is not");
    plan->save_stream(stream, static_cast<char*>(to));
    return 0;
  });
}
RTA_API int rta_plan_load_stream(rta_plan* plan, int64_t stream, const void* from) {
  return of_plan(plan, -1, [&] {
    if (stream < 0 || stream >= static_cast<int64_t>(plan->nonfinite.size())) fail("a stream that there is not");
    plan->load_stream(stream, static_cast<const char*>(from));
    return 0;
  });
}

RTA_API size_t rta_plan_packed_bytes(const rta_plan* plan) { return plan ? plan->packed_bytes() : 0; }
RTA_API size_t rta_plan_scratch_bytes(const rta_plan* plan) {
  return plan && plan->scratch ? plan->scratch->used() + plan->state->used() : 0;
}

RTA_API size_t rta_code_bytes(void) {
#if defined(__ELF__)
  Code code{reinterpret_cast<uintptr_t>(&rta_code_bytes), 0};
  dl_iterate_phdr(add_code, &code);
  return code.bytes;
#else
  return 0;
#endif
}
}
