// How a door lies in shared memory (rta_door.h). What a client writes there is read once and checked before it is used.
#pragma once

#include <atomic>
#include <cstdint>

#include "_system/os.h"
#include "realtime/latest_memory.h"
#include "rta_door.h"

namespace rta_serve {

constexpr char kDoorMagic[8] = {'R', 'T', 'A', 'D', 'O', 'O', 'R', '1'};

// A place for a sample and its answer. Its phase says whose it is: the client's where it is free or answered, else the
// door's.
enum : uint32_t { kPlaceFree = 0, kPlacePut = 1, kPlaceAnswered = 2 };
struct alignas(64) Place {
  std::atomic<uint32_t> phase;
  int32_t status;
  int64_t stream, stamp, lateness;
  char* x() { return reinterpret_cast<char*>(this + 1); }
};

struct alignas(64) LaneHead {
  std::atomic<uint64_t> owner;             // 0: free (rta_realtime::own_id)
  std::atomic<uint32_t> leaving;           // said by the client
  alignas(64) std::atomic<uint32_t> said;  // puts, by the client; place number n % depth of `order` says where
  alignas(64) std::atomic<uint32_t> news;  // changes with every answer
};

struct alignas(64) DoorHead {
  char magic[8];
  std::atomic<uint32_t> open;
  uint32_t lanes, depth, reserved;
  int64_t streams, in_bytes, out_bytes;
  std::atomic<uint64_t> host;  // the batcher's process
  char note[RTA_DOOR_NOTE_BYTES];
  alignas(64) std::atomic<uint32_t> bell;  // the thread of the door sleeps at it
  std::atomic<uint32_t> asleep;
};
static_assert(sizeof(Place) == 64 && sizeof(LaneHead) == 192 && std::atomic<uint64_t>::is_always_lock_free);

// Where things are, from sizes that were checked: never from the memory itself.
struct DoorLayout {
  int64_t lanes, depth, in_bytes, out_bytes;
  size_t order_bytes() const { return (static_cast<size_t>(depth) * sizeof(uint32_t) + 63) / 64 * 64; }
  size_t place_bytes() const {
    return (sizeof(Place) + (static_cast<size_t>(in_bytes) + 7) / 8 * 8 + static_cast<size_t>(out_bytes) + 63) / 64 *
           64;
  }
  size_t lane_bytes() const { return sizeof(LaneHead) + order_bytes() + place_bytes() * static_cast<size_t>(depth); }
  size_t bytes() const { return sizeof(DoorHead) + lane_bytes() * static_cast<size_t>(lanes); }

  LaneHead& lane(void* base, int64_t l) const {
    return *reinterpret_cast<LaneHead*>(static_cast<char*>(base) + sizeof(DoorHead) +
                                        lane_bytes() * static_cast<size_t>(l));
  }
  std::atomic<uint32_t>* order(LaneHead& lane) const { return reinterpret_cast<std::atomic<uint32_t>*>(&lane + 1); }
  Place& place(LaneHead& lane, int64_t p) const {
    return *reinterpret_cast<Place*>(reinterpret_cast<char*>(&lane + 1) + order_bytes() +
                                     place_bytes() * static_cast<size_t>(p));
  }
  char* y(Place& place) const { return place.x() + (in_bytes + 7) / 8 * 8; }
};

inline void ring(std::atomic<uint32_t>& word) {
  word.fetch_add(1);
  rta::os::wake_all_shared(word);
}

}  // namespace rta_serve
