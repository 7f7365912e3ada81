// Named memory that processes share: not on macOS, whose shm_open takes no lock, 31 characters, and a size once.
#include "realtime/latest_memory.h"

namespace rta_realtime {

Mapping map_shared(const char* name, size_t, bool (*)(void*, size_t, bool, const void*), const void*) {
  if (!shared_name(name).empty()) latest_error("named slots are not made on macOS: processes there need another way");
  return {};
}

}  // namespace rta_realtime
