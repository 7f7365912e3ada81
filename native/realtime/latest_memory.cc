#include "realtime/latest_memory.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "_system/os.h"

namespace rta_realtime {
namespace {

thread_local char error_text[256] = "";

void forked() { generation.fetch_add(1, std::memory_order_relaxed); }
[[maybe_unused]] const int watch = pthread_atfork(nullptr, nullptr, forked);

}  // namespace

std::atomic<uint32_t> generation{1};

int latest_error(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error_text, sizeof error_text, format, args);
  va_end(args);
  return RTA_LATEST_BAD;
}

int no_slot() {
  return latest_error("the slot is NULL; rta_latest_create or rta_latest_open said why when it was not made");
}

// Asked once in a process: an emulator has another beginning for each of its threads.
uint64_t own_id() {
  static std::atomic<uint64_t> kept{0};
  const pid_t pid = getpid();
  uint64_t id = kept.load(std::memory_order_relaxed);
  if (static_cast<pid_t>(id >> 32) != pid) {  // the first time, and in a forked child
    id = static_cast<uint64_t>(pid) << 32 | (rta::os::begun(pid) & 0xffffffffu);
    kept.store(id, std::memory_order_relaxed);
  }
  return id;
}

bool owner_alive(uint64_t owner) {
  if (owner == own_id()) return true;
  const uint64_t started = rta::os::begun(static_cast<pid_t>(owner >> 32));
  return started != 0 && (started & 0xffffffffu) == (owner & 0xffffffffu);
}

std::string shared_name(const char* name) {
  const size_t length = name ? std::strlen(name) : 0;
  bool fits = length >= 1 && length <= 200;
  for (size_t i = 0; fits && i < length; ++i) {
    const char c = name[i];
    fits =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
  }
  if (!fits) {
    latest_error("a name has 1 to 200 letters, digits, '_', '-' or '.'");
    return {};
  }
  return std::string("/rta.") + name;
}

Mapping map_private(size_t bytes) {
  void* base = rta::os::map_now(-1, bytes);
  if (base == MAP_FAILED) {
    latest_error("no memory of %zu bytes: %s", bytes, std::strerror(errno));
    return {};
  }
  return {base, bytes};
}

int unlink_shared(const char* name) {
  const std::string path = shared_name(name);
  if (path.empty()) return RTA_LATEST_BAD;
  if (shm_unlink(path.c_str()) != 0) return latest_error("shared memory %s: %s", path.c_str(), std::strerror(errno));
  return 0;
}

}  // namespace rta_realtime

extern "C" __attribute__((visibility("default"))) const char* rta_latest_error_text(void) {
  return rta_realtime::error_text;
}
