#include "realtime/latest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace rta_realtime {
namespace {

thread_local char error_text[256] = "";

// Field 22 of /proc/PID/stat in clock ticks since boot; 0 where there is no such living process.
uint64_t start_time(pid_t pid) {
  char path[48], text[1024];
  std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return 0;
  text[got] = 0;
  const char* at = std::strrchr(text, ')');  // the name before it may hold anything
  if (!at || at[1] != ' ') return 0;
  at += 2;
  if (*at == 'Z' || *at == 'X') return 0;  // killed, and not yet waited for
  for (int field = 3; field < 22 && at; ++field) at = std::strchr(at, ' ') ? std::strchr(at, ' ') + 1 : nullptr;
  return at ? std::strtoull(at, nullptr, 10) : 0;
}

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

uint64_t own_id() {
  const pid_t pid = getpid();
  return static_cast<uint64_t>(pid) << 32 | (start_time(pid) & 0xffffffffu);
}

bool owner_alive(uint64_t owner) {
  const uint64_t started = start_time(static_cast<pid_t>(owner >> 32));
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
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (base == MAP_FAILED) {
    latest_error("no memory of %zu bytes: %s", bytes, std::strerror(errno));
    return {};
  }
  return {base, bytes};
}

Mapping map_shared(const char* name, size_t bytes, bool (*ready)(void*, size_t, bool, const void*), const void* from) {
  const std::string path = shared_name(name);
  if (path.empty()) return {};
  const int fd = shm_open(path.c_str(), O_RDWR | O_CLOEXEC | (bytes ? O_CREAT : 0), 0600);
  if (fd < 0) {
    latest_error("shared memory %s: %s", path.c_str(), std::strerror(errno));
    return {};
  }
  // Whoever holds the lock fills an empty file. One that dies while it does leaves that to the next.
  Mapping map;
  struct stat facts = {};
  if (flock(fd, LOCK_EX) != 0 || fstat(fd, &facts) != 0) {
    latest_error("shared memory %s: %s", path.c_str(), std::strerror(errno));
  } else {
    const bool fresh = facts.st_size == 0;
    if (fresh && !bytes) {
      latest_error("shared memory %s is empty", path.c_str());
    } else if (fresh && posix_fallocate(fd, 0, static_cast<off_t>(bytes)) != 0) {
      latest_error("shared memory %s: no room for %zu bytes", path.c_str(), bytes);
      (void)!ftruncate(fd, 0);
    } else {
      map.bytes = fresh ? bytes : static_cast<size_t>(facts.st_size);
      map.base = mmap(nullptr, map.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
      if (map.base == MAP_FAILED) {
        latest_error("shared memory %s: %s", path.c_str(), std::strerror(errno));
        map = {};
      } else if (!ready(map.base, map.bytes, fresh, from)) {
        munmap(map.base, map.bytes);
        map = {};
      }
    }
  }
  flock(fd, LOCK_UN);  // the mapping keeps the file open, and closing it would not give the lock back
  close(fd);
  return map;
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
