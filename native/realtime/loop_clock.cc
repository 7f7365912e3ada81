// The host's clock: sleeping until shortly before a time, and spinning the rest.
#include "_system/os.h"
#include "realtime/loop.h"

namespace rta_realtime {
namespace {

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t host_now(void*) { return rta_latest_now_ns(); }

constexpr int64_t kSliceNs = 20'000'000;  // after which a sleeping loop looks whether it is to stop

// self: the flag that ends a sleep.
int64_t host_sleep(void* self, int64_t until) {
  const auto* stopping = static_cast<const std::atomic<int>*>(self);
  int64_t now = rta_latest_now_ns();
  while (now < until && !stopping->load(std::memory_order_relaxed)) {
    rta::os::sleep_until(until - now > 2 * kSliceNs ? now + kSliceNs : until);
    now = rta_latest_now_ns();
  }
  return now;
}

int64_t host_spin(void*, int64_t until) {
  int64_t now = rta_latest_now_ns();
  while (now < until) {
    pause_core();
    now = rta_latest_now_ns();
  }
  return now;
}

}  // namespace

const rta_loop_clock kClock = {host_now, host_sleep, host_spin, nullptr};

}  // namespace rta_realtime
