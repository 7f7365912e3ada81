// Weights that another thread offers: the one that calls takes the body of the plan that was offered, between two
// calls.
#include <sched.h>

#include <algorithm>
#include <utility>

#include "_core/plan.h"

using namespace rta;

static rta_plan* taking() {
  static char mark;
  return reinterpret_cast<rta_plan*>(&mark);
}

bool rta_plan::offer(rta_plan* next) {
  const auto same = [](const Value& a, const Value& b) {
    return a.dtype == b.dtype && a.steps == b.steps && a.width == b.width;
  };
  const bool fits = next && next != this && finished && next->finished && roles == next->roles &&
                    stages.size() == next->stages.size() && threads == next->threads && memory == next->memory &&
                    nonfinite.size() == next->nonfinite.size() &&
                    std::equal(values.begin(), values.end(), next->values.begin(), next->values.end(), same);
  rta_plan* none = nullptr;
  return fits && offered.compare_exchange_strong(none, next, std::memory_order_release, std::memory_order_relaxed);
}

bool rta_plan::withdraw(rta_plan* next) {
  rta_plan* expected = next;
  if (offered.compare_exchange_strong(expected, nullptr, std::memory_order_acq_rel)) return true;
  while (offered.load(std::memory_order_acquire) == taking()) sched_yield();
  return false;
}

// On the thread that calls. Whoever offers does not touch `next` until `offered` is null again.
void rta_plan::take() {
  rta_plan* next = offered.load(std::memory_order_acquire);
  if (!next || next == taking() || !offered.compare_exchange_strong(next, taking(), std::memory_order_acq_rel)) return;
  std::swap(static_cast<rta_plan_body&>(*this), static_cast<rta_plan_body&>(*next));
  offered.store(nullptr, std::memory_order_release);
}
