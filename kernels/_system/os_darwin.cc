// macOS. Compiled, and run by nobody yet (docs/how-to/release.md). Threads cannot be kept on cores there: they ask for
// performance cores by their quality of service, and for a time constraint where they are to run first.
#include <mach/mach.h>
#include <mach/mach_time.h>
#include <mach/thread_policy.h>
#include <pthread/qos.h>
#include <sys/mman.h>
#include <sys/sysctl.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "_system/os.h"

// Of libSystem, which declares them nowhere public; std::atomic::wait of its C++ library stands on them.
extern "C" int __ulock_wait(uint32_t operation, void* address, uint64_t value, uint32_t timeout_us);
extern "C" int __ulock_wake(uint32_t operation, void* address, uint64_t value);

namespace rta::os {
namespace {

constexpr uint32_t kCompareAndWait = 1, kCompareAndWaitShared = 3, kWakeAll = 0x100, kNoErrno = 0x01000000;

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// Ticks of the clock that sleeps and constraints are counted in.
uint64_t ticks(int64_t ns) {
  static const mach_timebase_info_data_t base = [] {
    mach_timebase_info_data_t found{};
    mach_timebase_info(&found);
    return found;
  }();
  return static_cast<uint64_t>(ns) * base.denom / base.numer;
}

}  // namespace

static void wait_on(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns, uint32_t operation) {
  uint32_t timeout_us = 0;  // none
  if (until_ns != INT64_MAX) {
    const int64_t left = until_ns - now_ns();
    if (left <= 0) return;
    timeout_us = static_cast<uint32_t>(std::min(left / 1000 + 1, int64_t{1'000'000'000}));
  }
  __ulock_wait(operation | kNoErrno, &word, value, timeout_us);
}

void wait_at(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns) {
  wait_on(word, value, until_ns, kCompareAndWait);
}

void wake_all(std::atomic<uint32_t>& word) { __ulock_wake(kCompareAndWait | kWakeAll | kNoErrno, &word, 0); }

void wait_at_shared(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns) {
  wait_on(word, value, until_ns, kCompareAndWaitShared);
}

void wake_all_shared(std::atomic<uint32_t>& word) {
  __ulock_wake(kCompareAndWaitShared | kWakeAll | kNoErrno, &word, 0);
}

void sleep_until(int64_t ns) {
  const int64_t left = ns - now_ns();
  if (left > 0) mach_wait_until(mach_absolute_time() + ticks(left));
}

std::vector<int> allowed_cores() {
  int count = 0;
  size_t size = sizeof count;
  std::vector<int> cores;
  if (sysctlbyname("hw.perflevel0.logicalcpu", &count, &size, nullptr, 0) != 0 &&
      sysctlbyname("hw.logicalcpu", &count, &size, nullptr, 0) != 0)
    return cores;
  for (int i = 0; i < count; ++i) cores.push_back(i);
  return cores;
}

int current_core() { return -1; }
int pin(int) { return ENOTSUP; }
void begin_on(pthread_attr_t& attributes, int) {
  pthread_attr_set_qos_class_np(&attributes, QOS_CLASS_USER_INTERACTIVE, 0);
}

void name_thread(const char* name) { pthread_setname_np(name); }
void sleep_exactly() {}  // with a time constraint they do

// Half a millisecond of each: what audio threads ask for. Priorities have no counterpart.
int run_first(int) {
  thread_time_constraint_policy_data_t wanted;
  wanted.period = 0;
  wanted.computation = static_cast<uint32_t>(ticks(500'000));
  wanted.constraint = static_cast<uint32_t>(ticks(1'000'000));
  wanted.preemptible = 1;
  const kern_return_t done =
      thread_policy_set(pthread_mach_thread_np(pthread_self()), THREAD_TIME_CONSTRAINT_POLICY,
                        reinterpret_cast<thread_policy_t>(&wanted), THREAD_TIME_CONSTRAINT_POLICY_COUNT);
  return done == KERN_SUCCESS ? 0 : EPERM;
}

uint64_t begun(pid_t process) {
  int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, process};
  kinfo_proc found{};
  size_t size = sizeof found;
  constexpr char kZombie = 5;
  if (sysctl(name, 4, &found, &size, nullptr, 0) != 0 || size == 0 || found.kp_proc.p_stat == kZombie) return 0;
  const timeval& start = found.kp_proc.p_starttime;
  return static_cast<uint64_t>(start.tv_sec) * 1'000'000 + static_cast<uint64_t>(start.tv_usec);
}

void* map_now(int file, size_t bytes) {
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANON : MAP_SHARED, file, 0);
  if (start == MAP_FAILED) return start;
  constexpr size_t kPage = 16384;
  for (size_t at = 0; at < bytes; at += kPage) {
    volatile char* byte = static_cast<char*>(start) + at;
    *byte = *byte;
  }
  return start;
}

}  // namespace rta::os
