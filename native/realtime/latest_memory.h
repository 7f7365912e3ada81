// What a slot is inside: the mapping, the sides a handle has, and names and owners across processes.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "rta_latest.h"

namespace rta_realtime {

constexpr uint32_t kNew = 4, kTop = 0x80000000u;
constexpr size_t kHeaderBytes = 512, kStampBytes = 64;
constexpr size_t kMaxBytes = size_t{1} << 40;

// Of the calling thread; always RTA_LATEST_BAD.
int latest_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

// This process, as an owner word has it.
int no_slot();  // the error of a slot that is NULL
uint64_t own_id();
bool owner_alive(uint64_t owner);

// Counts forks: 1, and one more in each child. A side that was claimed before a fork is the parent's.
extern std::atomic<uint32_t> generation;

struct Mapping {
  void* base = nullptr;
  size_t bytes = 0;
};

// "/rta.NAME" for shm_open, or empty with the reason in latest_error.
std::string shared_name(const char* name);

// Shared memory `bytes` long under a name, made where it is not there: `fresh` says so, and `ready` is called with the
// base while other openers wait. bytes 0: what is there. A base of NULL: see latest_error.
Mapping map_shared(const char* name, size_t bytes,
                   bool (*ready)(void* base, size_t bytes, bool fresh, const void* from), const void* from);
Mapping map_private(size_t bytes);
int unlink_shared(const char* name);

}  // namespace rta_realtime

struct rta_latest {
  rta_realtime::Mapping map;
  rta_latest_header* header;
  // Copies: what another process writes over the header cannot send this one out of its memory.
  size_t payload, stride;
  uint32_t buffers, dtype, nan;
  bool many;
  uint32_t claimed[2];  // the generation in which a side became this handle's; 0: not
  bool lent[2];
  int64_t last_seq, last_stamp;  // writer
  int64_t seen;                  // reader: number of the last value it was given
  char* own[2];                  // many: the reader's copies
  rta_latest_stamp own_stamp[2];
  int current;
};
