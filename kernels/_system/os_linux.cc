// Linux: futexes, affinity, SCHED_FIFO.
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "_system/os.h"

namespace rta::os {
namespace {

cpu_set_t only(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (core >= 0 && core < CPU_SETSIZE) CPU_SET(core, &set);
  return set;
}

timespec at(int64_t ns) { return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)}; }

}  // namespace

static void wait_on(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns, int flags) {
  const timespec until = at(until_ns);
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_BITSET | flags, value,
          until_ns == INT64_MAX ? nullptr : &until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

static void wake_on(std::atomic<uint32_t>& word, int flags) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE | flags, INT_MAX, nullptr, nullptr, 0);
}

void wait_at(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns) {
  wait_on(word, value, until_ns, FUTEX_PRIVATE_FLAG);
}

void wake_all(std::atomic<uint32_t>& word) { wake_on(word, FUTEX_PRIVATE_FLAG); }

void wait_at_shared(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns) {
  wait_on(word, value, until_ns, 0);
}

void wake_all_shared(std::atomic<uint32_t>& word) { wake_on(word, 0); }

void sleep_until(int64_t ns) {
  const timespec until = at(ns);
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cores.push_back(i);
  return cores;
}

int current_core() { return sched_getcpu(); }

int pin(int core) {
  const cpu_set_t set = only(core);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : errno;
}

void begin_on(pthread_attr_t& attributes, int core) {
  const cpu_set_t set = only(core);
  pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
}

void name_thread(const char* name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
void sleep_exactly() { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }

int run_first(int priority) {
  sched_param param = {};
  param.sched_priority = priority;
  return pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
}

// Field 22 of /proc/PID/stat in clock ticks since boot.
uint64_t begun(pid_t process) {
  char path[48], text[1024];
  std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(process));
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const ssize_t got = read(file, text, sizeof text - 1);
  close(file);
  if (got <= 0) return 0;
  text[got] = 0;
  const char* field = std::strrchr(text, ')');  // the name before it may hold anything
  if (!field || field[1] != ' ') return 0;
  field += 2;
  if (*field == 'Z' || *field == 'X') return 0;  // killed, and not yet waited for
  for (int i = 3; i < 22 && field; ++i) field = std::strchr(field, ' ') ? std::strchr(field, ' ') + 1 : nullptr;
  return field ? std::strtoull(field, nullptr, 10) : 0;
}

void* map_now(int file, size_t bytes) {
  const int kind = (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_POPULATE;
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, file, 0);
}

}  // namespace rta::os
