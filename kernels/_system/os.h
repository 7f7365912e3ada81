// What one system does otherwise than another: waiting at a word, cores, schedules. os_linux.cc and os_darwin.cc have
// it.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rta::os {

// Sleeps while the word is `value`, until `until_ns` of the monotonic clock at the latest; may end sooner.
void wait_at(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns = INT64_MAX);
void wake_all(std::atomic<uint32_t>& word);
// The same at a word in memory that processes share.
void wait_at_shared(std::atomic<uint32_t>& word, uint32_t value, int64_t until_ns = INT64_MAX);
void wake_all_shared(std::atomic<uint32_t>& word);

// To a time of the monotonic clock; may end sooner.
void sleep_until(int64_t ns);

// Cores that this thread may run on; empty, with errno, where the system does not say.
std::vector<int> allowed_cores();
// Of this thread; -1 where the system does not say.
int current_core();
// This thread stays on a core. 0, or an errno: ENOTSUP where threads cannot be kept.
int pin(int core);
// Threads that are made with these begin on a core, where they can be kept there.
void begin_on(pthread_attr_t& attributes, int core);

// What debuggers and lists of threads call this one. Its sleeps end as exactly as the system can make them.
void name_thread(const char* name);
void sleep_exactly();
// This thread runs before those of ordinary programs, whenever it has something to do. 0, or an errno. Linux:
// SCHED_FIFO.
int run_first(int priority);

// When a living process began, in a unit of the system's; 0 where there is none.
uint64_t begun(pid_t process);

// Memory that is there at once: of a file, or where it is -1 zeros of this process alone. MAP_FAILED, and errno.
void* map_now(int file, size_t bytes);

}  // namespace rta::os
