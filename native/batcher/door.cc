// The batcher's side of a door: one thread that brings puts in and answers out.
#include "door.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "batcher.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_serve;
using rta_realtime::Mapping;

namespace {

constexpr int64_t kTickNs = 50'000'000;    // between two looks whether clients leave
constexpr int64_t kAliveNs = 200'000'000;  // and whether they live

bool fill(void* base, size_t bytes, bool fresh, const void* from) {
  auto* head = static_cast<DoorHead*>(base);
  if (!fresh) return batcher_error("something lies under this name already"), false;
  const auto& b = *static_cast<const rta_door_config*>(from);
  static_cast<void>(bytes);
  std::memcpy(head->magic, kDoorMagic, sizeof kDoorMagic);
  head->lanes = static_cast<uint32_t>(b.lanes);
  head->depth = static_cast<uint32_t>(b.depth);
  head->streams = b.batcher->config.streams;
  head->in_bytes = static_cast<int64_t>(b.batcher->config.in_bytes);
  head->out_bytes = static_cast<int64_t>(b.batcher->config.out_bytes);
  std::memcpy(head->note, b.note, sizeof head->note);
  head->host.store(rta_realtime::own_id());
  head->open.store(1, std::memory_order_release);
  return true;
}

// What a process that died left under the name is taken away; its clients see that it is dead.
bool abandoned(void* base, size_t bytes, bool fresh, const void*) {
  auto* head = static_cast<DoorHead*>(base);
  if (fresh || bytes < sizeof(DoorHead) || std::memcmp(head->magic, kDoorMagic, sizeof kDoorMagic) != 0) return false;
  return !rta_realtime::owner_alive(head->host.load());
}

}  // namespace

struct rta_door {
  rta_batcher* batcher = nullptr;
  std::string name;
  Mapping map;
  DoorLayout layout{};
  pthread_t thread = {};
  uint32_t born = 0;
  std::atomic<bool> ending{false};
  std::atomic<int64_t> put{0}, refused{0}, answered{0}, late{0}, died{0}, clients{0};

  struct Lane {
    uint32_t taken = 0;   // of what its client said
    int64_t out = 0;      // with the batcher
    bool living = false;  // a client has it
    bool news = false;
  };
  std::vector<Lane> lanes;
  std::vector<int64_t> tickets;  // by lane and place; -1: not with the batcher

  DoorHead& head() { return *static_cast<DoorHead*>(map.base); }
  void work();
  bool take_puts();
  bool give_answers();
  void look_after_lanes(bool whether_alive);
  void answer(int64_t lane, int64_t place, int status, int64_t lateness);
  void tell();
};

void rta_door::answer(int64_t lane, int64_t place, int status, int64_t lateness) {
  Place& p = layout.place(layout.lane(map.base, lane), place);
  p.status = status;
  p.lateness = lateness;
  p.phase.store(kPlaceAnswered, std::memory_order_release);
  lanes[static_cast<size_t>(lane)].news = true;
}

// Nothing that a client wrote is believed: a place counts once, where it says that it is put.
bool rta_door::take_puts() {
  bool any = false;
  for (int64_t l = 0; l < layout.lanes; ++l) {
    LaneHead& lane = layout.lane(map.base, l);
    if (lane.owner.load(std::memory_order_acquire) == 0) continue;
    Lane& mine = lanes[static_cast<size_t>(l)];
    mine.living = true;
    const uint32_t said = lane.said.load(std::memory_order_acquire);
    if (said - mine.taken > static_cast<uint32_t>(layout.depth)) mine.taken = said;  // no client of ours says that
    for (; mine.taken != said; ++mine.taken) {
      const int64_t place = layout.order(lane)[mine.taken % static_cast<uint32_t>(layout.depth)].load();
      if (place >= layout.depth) continue;
      int64_t& ticket = tickets[static_cast<size_t>(l * layout.depth + place)];
      Place& p = layout.place(lane, place);
      if (ticket >= 0 || p.phase.load(std::memory_order_acquire) != kPlacePut) continue;
      any = true;
      const int64_t got = batcher->put_sample(p.stream, p.x(), p.stamp, l * layout.depth + place + 1);
      if (got < 0) {
        refused.fetch_add(1, std::memory_order_relaxed);
        answer(l, place, static_cast<int>(got), 0);
        continue;
      }
      put.fetch_add(1, std::memory_order_relaxed);
      ticket = got;
      ++mine.out;
    }
  }
  return any;
}

bool rta_door::give_answers() {
  const uint32_t first = batcher->door_done.exchange(0, std::memory_order_acq_rel);
  for (uint32_t at = first, next; at != 0; at = next) {
    const Ticket& t = batcher->tickets[at - 1];
    next = t.next_done;
    const int64_t tag = t.tag - 1, l = tag / layout.depth, place = tag % layout.depth, deadline = t.deadline;
    int64_t& ticket = tickets[static_cast<size_t>(tag)];
    Place& p = layout.place(layout.lane(map.base, l), place);
    int64_t lateness = 0;
    int status = rta_batcher_take(batcher, ticket, layout.y(p), &lateness);
    ticket = -1;
    --lanes[static_cast<size_t>(l)].out;
    if (status == RTA_ANSWER_OK) {  // it counts when it is there
      lateness = rta_latest_now_ns() - deadline;
      if (lateness > 0) {
        status = RTA_ANSWER_LATE;
        late.fetch_add(1, std::memory_order_relaxed);
      }
    }
    answered.fetch_add(1, std::memory_order_relaxed);
    answer(l, place, status, lateness);
  }
  return first != 0;
}

void rta_door::tell() {
  for (int64_t l = 0; l < layout.lanes; ++l) {
    Lane& mine = lanes[static_cast<size_t>(l)];
    if (mine.news) ring(layout.lane(map.base, l).news);
    mine.news = false;
  }
}

void rta_door::look_after_lanes(bool whether_alive) {
  int64_t there = 0;
  for (int64_t l = 0; l < layout.lanes; ++l) {
    LaneHead& lane = layout.lane(map.base, l);
    Lane& mine = lanes[static_cast<size_t>(l)];
    const uint64_t owner = lane.owner.load(std::memory_order_acquire);
    if (owner == 0) continue;
    const bool leaves = lane.leaving.load() != 0, dead = whether_alive && !rta_realtime::owner_alive(owner);
    there += !leaves && !dead;
    if ((!leaves && !dead) || mine.out != 0 || lane.said.load(std::memory_order_acquire) != mine.taken) continue;
    died.fetch_add(!leaves, std::memory_order_relaxed);
    for (int64_t p = 0; p < layout.depth; ++p) layout.place(lane, p).phase.store(kPlaceFree);
    mine = {};
    lane.said.store(0);
    lane.leaving.store(0);
    lane.owner.store(0, std::memory_order_release);
  }
  clients.store(there);
}

void rta_door::work() {
  rta::os::name_thread("rtaccel-door");
  std::atomic<uint32_t>& bell = head().bell;
  int64_t tick = 0, alive = 0;
  for (;;) {
    const bool last = ending.load();
    const uint32_t seen = bell.load();
    const bool took = take_puts(), gave = give_answers();
    tell();
    const int64_t now = rta_latest_now_ns();
    if (now >= tick) {
      look_after_lanes(now >= alive);
      if (now >= alive) alive = now + kAliveNs;
      tick = now + kTickNs;
    }
    if (last) break;
    if (took || gave) continue;
    head().asleep.store(1);
    rta::os::wait_at_shared(bell, seen, now + kTickNs);
    head().asleep.store(0);
  }
}

RTA_API rta_door* rta_door_open(const rta_door_config* given) {
  if (!given || !given->batcher) return batcher_error("the config or its batcher is NULL"), nullptr;
  rta_door_config asked = *given;
  const rta_door_config* const config = &asked;
  rta_batcher* b = config->batcher;
  if (config->lanes < 1 || config->lanes > RTA_DOOR_MOST_LANES || config->depth < 1 ||
      config->depth > RTA_DOOR_MOST_DEPTH)
    return batcher_error("lanes of 1 to %d and a depth of 1 to %d", RTA_DOOR_MOST_LANES, RTA_DOOR_MOST_DEPTH), nullptr;
  int64_t depth = 1;  // a power of two, so that counts that begin anew go on with the next entry of the order
  while (depth < asked.depth) depth *= 2;
  asked.depth = depth;
  if (b->config.tickets == 0) return batcher_error("a batcher with tickets is needed for a door"), nullptr;
  if (b->config.manual || b->door_bell.load()) return batcher_error("a batcher has one door, and a clock"), nullptr;
  try {
    auto door = std::make_unique<rta_door>();
    door->batcher = b;
    door->name = config->name ? config->name : "";
    door->layout = {config->lanes, config->depth, static_cast<int64_t>(b->config.in_bytes),
                    static_cast<int64_t>(b->config.out_bytes)};
    door->lanes.resize(static_cast<size_t>(config->lanes));
    door->tickets.assign(static_cast<size_t>(config->lanes * config->depth), -1);
    const Mapping old = rta_realtime::map_shared(config->name, 0, abandoned, nullptr);
    if (old.base) {
      munmap(old.base, old.bytes);
      rta_realtime::unlink_shared(config->name);
    }
    batcher_error("shared memory %s: it is not there, or cannot be made", door->name.c_str());
    door->map = rta_realtime::map_shared(config->name, door->layout.bytes(), fill, config);
    if (!door->map.base) return nullptr;
    door->born = rta_realtime::generation.load();
    b->door_bell.store(&door->head().bell);
    sigset_t all, before;  // signals are the other threads' business
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(
        &door->thread, nullptr,
        [](void* given) -> void* {
          static_cast<rta_door*>(given)->work();
          return nullptr;
        },
        door.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (code != 0) {
      b->door_bell.store(nullptr);
      munmap(door->map.base, door->map.bytes);
      rta_realtime::unlink_shared(config->name);
      return batcher_error("no thread: %s", std::strerror(code)), nullptr;
    }
    return door.release();
  } catch (const std::bad_alloc&) {
    return batcher_error("no memory for a door"), nullptr;
  }
}

RTA_API void rta_door_close(rta_door* door) {
  if (!door) return;
  if (door->born == rta_realtime::generation.load()) {  // else the thread and the name are the parent's
    door->ending.store(true);
    ring(door->head().bell);
    pthread_join(door->thread, nullptr);
    door->batcher->door_bell.store(nullptr);
    door->head().open.store(0);
    for (int64_t l = 0; l < door->layout.lanes; ++l) ring(door->layout.lane(door->map.base, l).news);
    rta_realtime::unlink_shared(door->name.c_str());
  }
  munmap(door->map.base, door->map.bytes);
  delete door;
}

RTA_API void rta_door_statistics(const rta_door* door, rta_door_stats* s) {
  *s = {};
  if (!door) return;
  *s = {door->put.load(),  door->refused.load(), door->answered.load(),
        door->late.load(), door->died.load(),    door->clients.load()};
}
