// Named memory that processes share, on Linux.
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "_system/os.h"
#include "realtime/latest_memory.h"

namespace rta_realtime {

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
      map.base = rta::os::map_now(fd, map.bytes);
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

}  // namespace rta_realtime
