// The side of a process that puts through a door.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "batcher.h"
#include "door.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_serve;

namespace {

constexpr int64_t kSliceNs = 100'000'000;  // between two looks whether the other process lives
constexpr int64_t kMost = int64_t{1} << 40;

bool is_door(void* base, size_t bytes, bool fresh, const void*) {
  const auto* head = static_cast<const DoorHead*>(base);
  if (fresh || bytes < sizeof(DoorHead) || std::memcmp(head->magic, kDoorMagic, sizeof kDoorMagic) != 0)
    return batcher_error("there is something else than a door under this name"), false;
  const bool sizes = head->lanes >= 1 && head->lanes <= RTA_DOOR_MOST_LANES && head->depth >= 1 &&
                     head->depth <= RTA_DOOR_MOST_DEPTH && head->in_bytes > 0 && head->in_bytes < kMost &&
                     head->out_bytes > 0 && head->out_bytes < kMost;
  if (!sizes || DoorLayout{head->lanes, head->depth, head->in_bytes, head->out_bytes}.bytes() != bytes)
    return batcher_error("the head of a door contradicts itself"), false;
  if (head->open.load(std::memory_order_acquire) == 0 || !rta_realtime::owner_alive(head->host.load()))
    return batcher_error("the batcher behind this door has ended"), false;
  return true;
}

}  // namespace

struct rta_door_client {
  rta_realtime::Mapping map;
  DoorLayout layout{};
  rta_door_config described{};
  int64_t streams = 0;
  LaneHead* lane = nullptr;
  uint32_t born = 0;
  std::mutex one;
  uint32_t said = 0;
  std::vector<uint32_t> free, generations, forgotten;  // places
  std::vector<char> waited;                            // by place: whether a handle stands for it
  std::atomic<int64_t> look_at{0};
  std::atomic<bool> dead{false};

  DoorHead& head() { return *static_cast<DoorHead*>(map.base); }
  // Whether the other process has ended; it is looked for now and then, however short the waits are.
  bool gone(int64_t now) {
    if (dead.load() || head().open.load() == 0) return true;
    if (now < look_at.load()) return false;
    look_at.store(now + kSliceNs);
    if (!rta_realtime::owner_alive(head().host.load())) dead.store(true);
    return dead.load();
  }
  bool is_here() const { return born == rta_realtime::generation.load(std::memory_order_relaxed); }
  // -1: no such handle.
  int64_t place_of(int64_t handle) const {
    const int64_t place = handle & 0xffffffff;
    if (handle < 0 || place >= layout.depth) return -1;
    const auto p = static_cast<size_t>(place);
    return waited[p] && generations[p] == static_cast<uint64_t>(handle) >> 32 ? place : -1;
  }
  void give_up(int64_t place) {
    const auto p = static_cast<size_t>(place);
    waited[p] = 0;
    generations[p] = (generations[p] + 1) & 0x7fffffff;
  }
  void sweep();
};

// Places of forgotten puts that are answered by now.
void rta_door_client::sweep() {
  size_t kept = 0;
  for (const uint32_t p : forgotten) {
    Place& place = layout.place(*lane, p);
    if (place.phase.load(std::memory_order_acquire) == kPlaceAnswered) {
      place.phase.store(kPlaceFree, std::memory_order_relaxed);
      free.push_back(p);
    } else {
      forgotten[kept++] = p;
    }
  }
  forgotten.resize(kept);
}

RTA_API rta_door_client* rta_door_connect(const char* name) {
  if (!name) return batcher_error("the name is NULL"), nullptr;
  try {
    auto client = std::make_unique<rta_door_client>();
    batcher_error("nobody has opened a door %s", name);
    client->map = rta_realtime::map_shared(name, 0, is_door, nullptr);
    if (!client->map.base) return nullptr;
    DoorHead& head = client->head();
    client->layout = {head.lanes, head.depth, head.in_bytes, head.out_bytes};
    client->described = {nullptr, nullptr, head.lanes, head.depth, {}};
    std::memcpy(client->described.note, head.note, sizeof head.note);
    client->described.note[RTA_DOOR_NOTE_BYTES - 1] = 0;
    client->streams = head.streams;
    client->born = rta_realtime::generation.load();
    const auto depth = static_cast<size_t>(client->layout.depth);
    client->generations.assign(depth, 0);
    client->waited.assign(depth, 0);
    client->forgotten.reserve(depth);
    for (size_t p = depth; p-- > 0;) client->free.push_back(static_cast<uint32_t>(p));
    if (client->layout.bytes() == client->map.bytes)  // read twice: it may have changed meanwhile
      for (int64_t l = 0; l < client->layout.lanes; ++l) {
        uint64_t nobody = 0;
        LaneHead& lane = client->layout.lane(client->map.base, l);
        if (!lane.owner.compare_exchange_strong(nobody, rta_realtime::own_id())) continue;
        client->lane = &lane;
        return client.release();
      }
    munmap(client->map.base, client->map.bytes);
    return batcher_error("all %lld lanes are taken", static_cast<long long>(client->layout.lanes)), nullptr;
  } catch (const std::bad_alloc&) {
    return batcher_error("no memory for a client"), nullptr;
  }
}

RTA_API void rta_door_leave(rta_door_client* client) {
  if (!client) return;
  if (client->is_here()) {
    client->lane->leaving.store(1);
    ring(client->head().bell);
  }
  munmap(client->map.base, client->map.bytes);
  delete client;
}

RTA_API const rta_door_config* rta_door_described(const rta_door_client* client) {
  return client ? &client->described : nullptr;
}

RTA_API void rta_door_sizes(const rta_door_client* client, int64_t* streams, size_t* in_bytes, size_t* out_bytes) {
  *streams = client ? client->streams : 0;
  *in_bytes = client ? static_cast<size_t>(client->layout.in_bytes) : 0;
  *out_bytes = client ? static_cast<size_t>(client->layout.out_bytes) : 0;
}

RTA_API void rta_door_put(rta_door_client* client, int64_t n, const int64_t* streams, const void* x,
                          const int64_t* stamps, int64_t* handles) {
  if (!client) [[unlikely]] {
    std::fill_n(handles, n, int64_t{RTA_DOOR_BAD});
    return;
  }
  const auto bytes = static_cast<size_t>(client->layout.in_bytes);
  const bool here = client->is_here(), open = !client->gone(rta_latest_now_ns());
  const std::lock_guard<std::mutex> lock(client->one);
  int64_t put = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t now = rta_latest_now_ns(), stamp = stamps ? stamps[i] : now;
    if (here && client->free.empty()) client->sweep();
    handles[i] = !here                                             ? RTA_DOOR_BAD
                 : !open                                           ? RTA_DOOR_GONE
                 : streams[i] < 0 || streams[i] >= client->streams ? RTA_PUT_STREAM
                 : stamp < 0 || stamp > now                        ? RTA_PUT_STAMP
                 : client->free.empty()                            ? RTA_PUT_FULL
                                                                   : 0;
    if (handles[i] < 0) continue;
    const uint32_t p = client->free.back();
    client->free.pop_back();
    Place& place = client->layout.place(*client->lane, p);
    place.stream = streams[i];
    place.stamp = stamp;
    std::memcpy(place.x(), static_cast<const char*>(x) + static_cast<size_t>(i) * bytes, bytes);
    place.phase.store(kPlacePut, std::memory_order_release);
    const auto depth = static_cast<uint32_t>(client->layout.depth);
    client->layout.order(*client->lane)[client->said % depth].store(p, std::memory_order_relaxed);
    client->lane->said.store(++client->said, std::memory_order_release);
    client->waited[p] = 1;
    handles[i] = static_cast<int64_t>(client->generations[p]) << 32 | p;
    ++put;
  }
  if (put == 0) return;
  client->head().bell.fetch_add(1);
  if (client->head().asleep.load() != 0) rta::os::wake_all_shared(client->head().bell);
}

RTA_API int rta_door_wait(rta_door_client* client, int64_t handle, int64_t timeout_ns) {
  if (!client || !client->is_here()) return RTA_DOOR_BAD;
  const int64_t begin = rta_latest_now_ns();
  const int64_t until = timeout_ns < INT64_MAX - begin ? begin + timeout_ns : INT64_MAX;
  for (;;) {
    const uint32_t news = client->lane->news.load(std::memory_order_acquire);
    int64_t place;
    {
      const std::lock_guard<std::mutex> lock(client->one);
      place = client->place_of(handle);
    }
    if (place < 0) return RTA_DOOR_BAD;
    const auto& phase = client->layout.place(*client->lane, place).phase;
    if (phase.load(std::memory_order_acquire) == kPlaceAnswered) return 1;
    const int64_t now = rta_latest_now_ns();
    if (client->gone(now)) return phase.load(std::memory_order_acquire) == kPlaceAnswered ? 1 : RTA_DOOR_GONE;
    if (now >= until) return 0;
    rta::os::wait_at_shared(client->lane->news, news, std::min(until, now + kSliceNs));
  }
}

RTA_API int rta_door_take(rta_door_client* client, int64_t handle, void* y, int64_t* lateness_ns) {
  if (!client || !client->is_here()) return RTA_DOOR_BAD;
  const std::lock_guard<std::mutex> lock(client->one);
  const int64_t p = client->place_of(handle);
  if (p < 0) return RTA_DOOR_BAD;
  Place& place = client->layout.place(*client->lane, p);
  if (place.phase.load(std::memory_order_acquire) != kPlaceAnswered) return RTA_DOOR_BAD;
  const int status = place.status;
  if (status == RTA_ANSWER_OK || status == RTA_ANSWER_LATE)
    std::memcpy(y, client->layout.y(place), static_cast<size_t>(client->layout.out_bytes));
  if (lateness_ns) *lateness_ns = place.lateness;
  place.phase.store(kPlaceFree, std::memory_order_relaxed);
  client->give_up(p);
  client->free.push_back(static_cast<uint32_t>(p));
  return status;
}

RTA_API void rta_door_forget(rta_door_client* client, int64_t handle) {
  if (!client || !client->is_here()) return;
  const std::lock_guard<std::mutex> lock(client->one);
  const int64_t p = client->place_of(handle);
  if (p < 0) return;
  client->give_up(p);
  client->forgotten.push_back(static_cast<uint32_t>(p));
}
