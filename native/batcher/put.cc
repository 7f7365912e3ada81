// The callers' side of a batcher: putting samples, waiting for tickets, taking batches of results.
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "batcher.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace rta_serve {
namespace {

constexpr int64_t kLookNs = 20'000'000;
constexpr int64_t kTogether = 64;  // puts of one call for one look at the clock
constexpr int64_t kAhead = 4;      // slots that are on their way into the cache

void pause_for(int turn) {
  if (turn > 100) {
    sched_yield();  // whoever has the slot was taken off its core
    return;
  }
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// The ticket's place and its word as it is now, or NULL where it was taken.
Ticket* find(rta_batcher* b, int64_t id, uint32_t& word) {
  const int64_t index = id & 0xffffffff;
  if (id < 0 || index >= b->config.tickets) return nullptr;
  Ticket& t = b->tickets[index];
  word = t.word.load(std::memory_order_acquire);
  return word / kGeneration == static_cast<uint64_t>(id) >> 32 && (word & kPhase) != kFree ? &t : nullptr;
}

}  // namespace
}  // namespace rta_serve

using namespace rta_serve;

// The stack's top carries a count, so that a top that went and came back is seen.
int32_t rta_batcher::take_ticket() {
  uint64_t top = free_tickets.load(std::memory_order_acquire);
  for (;;) {
    const auto index = static_cast<uint32_t>(top);
    if (index == 0) return -1;
    const uint64_t next = ((top >> 32) + 1) << 32 | tickets[index - 1].below.load(std::memory_order_relaxed);
    if (free_tickets.compare_exchange_weak(top, next, std::memory_order_acq_rel, std::memory_order_acquire))
      return static_cast<int32_t>(index - 1);
  }
}

void rta_batcher::free_ticket(int32_t index) {
  uint64_t top = free_tickets.load(std::memory_order_relaxed);
  for (;;) {
    tickets[index].below.store(static_cast<uint32_t>(top), std::memory_order_relaxed);
    const uint64_t next = ((top >> 32) + 1) << 32 | static_cast<uint32_t>(index + 1);
    if (free_tickets.compare_exchange_weak(top, next, std::memory_order_acq_rel, std::memory_order_relaxed)) return;
  }
}

void rta_batcher::answer(int32_t index, int status, int64_t done) {
  Ticket& t = tickets[index];
  t.status = status;
  t.done = done;
  const bool at_door = t.tag != 0;  // once it is answered it may be somebody else's
  uint32_t word = t.word.load(std::memory_order_relaxed);
  while (!t.word.compare_exchange_weak(
      word, (word & kLeft) ? (word / kGeneration + 1) * kGeneration : (word & ~(kPhase | kWaited)) | kAnswered,
      std::memory_order_acq_rel, std::memory_order_relaxed)) {
  }
  if (word & kLeft)
    free_ticket(index);
  else if (at_door)
    tell_door(index);
  else if (word & kWaited)
    rta::os::wake_all(t.word);
}

void rta_batcher::tell_door(int32_t index) {
  uint32_t top = door_done.load(std::memory_order_relaxed);
  do {
    tickets[index].next_done = top;
  } while (!door_done.compare_exchange_weak(top, static_cast<uint32_t>(index + 1), std::memory_order_acq_rel,
                                            std::memory_order_relaxed));
  if (top != 0) return;  // the door has been told, and has not looked yet
  if (std::atomic<uint32_t>* bell = door_bell.load()) {
    bell->fetch_add(1);
    rta::os::wake_all_shared(*bell);
  }
}

// A worker clears the bits and reads `first`; or all sleep, and one has said before what is to wake it.
void rta_batcher::announce(Bunch& bunch) {
  if (bunch.put) put.fetch_add(bunch.put, std::memory_order_relaxed);
  if (bunch.full) full.fetch_add(bunch.full, std::memory_order_relaxed);
  if (bunch.replaced) replaced.fetch_add(bunch.replaced, std::memory_order_relaxed);
  if (bunch.arrived) {
    marked[bunch.word].fetch_or(bunch.bits);
    const int64_t number = arrived.fetch_add(bunch.arrived) + bunch.arrived;
    if (workers && workers->asleep.load() != 0 && (number >= wake_arrived.load() || bunch.due < wake_due.load()))
      wake();
  }
  bunch = Bunch();
}

uint32_t rta_batcher::take_slot(Slot& s) {
  uint32_t word = s.word.load(std::memory_order_relaxed);
  for (int turn = 0;; ++turn) {
    if (word != kBusy && s.word.compare_exchange_weak(word, kBusy, std::memory_order_acquire)) return word;
    if (word == kBusy) pause_for(turn);
    word = s.word.load(std::memory_order_relaxed);
  }
}

int64_t rta_batcher::put_one(int64_t stream, const void* x, int64_t stamp, int64_t at, int64_t tag, Bunch& bunch) {
  if (stream < 0 || stream >= config.streams) return RTA_PUT_STREAM;
  if (stamp == RTA_STAMP_NOW) stamp = at;
  if (stamp > at || stamp < 0) return RTA_PUT_STAMP;
  int32_t ticket = -1;
  if (config.tickets ? (ticket = take_ticket()) < 0 : blocked.load(std::memory_order_relaxed)) {
    ++bunch.full;
    return RTA_PUT_FULL;
  }
  Slot& s = slot(stream);
  const uint32_t word = take_slot(s);
  if (s.removed) {
    s.word.store(word, std::memory_order_release);
    if (ticket >= 0) free_ticket(ticket);
    return RTA_PUT_STREAM;
  }
  int64_t id = RTA_PUT_QUEUED;
  if (ticket >= 0) {
    Ticket& t = tickets[ticket];
    t.deadline = stamp + config.deadline_ns;
    t.tag = tag;
    const uint32_t phase = t.word.load(std::memory_order_relaxed);
    t.word.store(phase | kPending, std::memory_order_relaxed);
    id = static_cast<int64_t>(phase / kGeneration) << 32 | ticket;
  }
  ++bunch.put;
  if (stamp < s.stamp) {
    s.word.store(word, std::memory_order_release);
    ++bunch.replaced;
    if (ticket < 0) return RTA_PUT_OVERTAKEN;
    answer(ticket, RTA_ANSWER_REPLACED, at);
    return id;
  }
  const int32_t before = s.ticket;
  s.ticket = ticket;
  s.stamp = stamp;
  s.put_at = at;
  std::memcpy(s.x(), x, config.in_bytes);
  if (word == kEmpty) first[stream].store(stamp, std::memory_order_relaxed);
  if (s.emptied) {
    s.emptied = false;
    emptied.fetch_sub(1);
  }
  s.word.store(kWaiting, std::memory_order_release);
  if (word == kEmpty) {
    if (stream / 64 != bunch.word) announce(bunch);
    bunch.word = stream / 64;
    bunch.bits |= uint64_t{1} << (stream % 64);
    ++bunch.arrived;
    bunch.due = std::min(bunch.due, stamp + config.deadline_ns);
    return id;
  }
  ++bunch.replaced;
  if (ticket < 0) return RTA_PUT_REPLACING;
  answer(before, RTA_ANSWER_REPLACED, at);
  return id;
}

int64_t rta_batcher::put_sample(int64_t stream, const void* x, int64_t stamp, int64_t tag) {
  if (stream < 0 || stream >= config.streams) return RTA_PUT_STREAM;
  const Inside here(inside);
  if (!open.load()) return RTA_PUT_STOPPED;
  Bunch bunch;
  const int64_t got = put_one(stream, x, stamp, now(), tag, bunch);
  announce(bunch);
  return got;
}

// One look at the clock serves a few of them, and one announcement neighbors in a word of marks.
void rta_batcher::put_samples(int64_t rows, const int64_t* streams, const char* x, const int64_t* stamps, int64_t stamp,
                              int64_t* codes) {
  const Inside here(inside);
  Bunch bunch;
  bool taken = false;
  int64_t at = 0;
  for (int64_t i = 0; i < rows; ++i) {
    if (i % kTogether == 0) {
      announce(bunch);
      taken = open.load();
      at = now();
    }
    const int64_t ahead = i + kAhead < rows ? streams[i + kAhead] : -1;
    if (ahead >= 0 && ahead < config.streams) fetch(&slot(ahead), sizeof(Slot) + config.in_bytes);
    const void* row = x + static_cast<size_t>(i) * config.in_bytes;
    codes[i] = taken ? put_one(streams[i], row, stamps ? stamps[i] : stamp, at, 0, bunch) : RTA_PUT_STOPPED;
  }
  announce(bunch);
}

RTA_API int64_t rta_batcher_put(rta_batcher* b, int64_t stream, const void* x, int64_t stamp_ns) {
  if (!b) return RTA_PUT_STOPPED;
  return b->put_sample(stream, x, stamp_ns);
}

RTA_API void rta_batcher_put_many(rta_batcher* b, int64_t count, const int64_t* streams, const void* x,
                                  const int64_t* stamps_ns, int64_t stamp_ns, int64_t* codes) {
  if (!b) [[unlikely]] {
    std::fill_n(codes, count, int64_t{RTA_PUT_STOPPED});
    return;
  }
  b->put_samples(count, streams, static_cast<const char*>(x), stamps_ns, stamp_ns, codes);
}

RTA_API int rta_batcher_wait(rta_batcher* b, int64_t id, int64_t timeout_ns) {
  if (!b) return no_batcher();
  const int64_t begin = rta_latest_now_ns();
  const int64_t until = timeout_ns < INT64_MAX - begin ? begin + timeout_ns : INT64_MAX;
  for (;;) {
    uint32_t word;
    Ticket* t = find(b, id, word);
    if (!t) return -1;
    if ((word & kPhase) == kAnswered) return 1;
    if (rta_latest_now_ns() >= until) return 0;
    if (!(word & kWaited) && !t->word.compare_exchange_strong(word, word | kWaited)) continue;
    rta::os::wait_at(t->word, word | kWaited, until);
  }
}

RTA_API int rta_batcher_take(rta_batcher* b, int64_t id, void* y, int64_t* lateness_ns) {
  if (!b) return no_batcher();
  uint32_t word;
  Ticket* t = find(b, id, word);
  if (!t || (word & kPhase) != kAnswered) return -1;
  const int status = t->status;
  const auto index = static_cast<int32_t>(id & 0xffffffff);
  if (status <= RTA_ANSWER_LATE)
    std::memcpy(y, b->answers.get() + static_cast<size_t>(index) * b->config.out_bytes, b->config.out_bytes);
  if (lateness_ns) *lateness_ns = t->done - t->deadline;
  // Of two that take it at once, one has it.
  if (!t->word.compare_exchange_strong(word, (word / kGeneration + 1) * kGeneration)) return -1;
  b->free_ticket(index);
  return status;
}

RTA_API void rta_batcher_leave(rta_batcher* b, int64_t id) {
  if (!b) return;
  uint32_t word;
  while (Ticket* t = find(b, id, word)) {
    const bool answered = (word & kPhase) == kAnswered;
    if (!t->word.compare_exchange_strong(word, answered ? (word / kGeneration + 1) * kGeneration : word | kLeft))
      continue;
    if (answered) b->free_ticket(static_cast<int32_t>(id & 0xffffffff));
    return;
  }
}

RTA_API int rta_batcher_next(rta_batcher* b, int64_t timeout_ns, rta_batch* batch) {
  if (!b) return no_batcher();
  const int64_t begin = rta_latest_now_ns();
  const int64_t until = timeout_ns < INT64_MAX - begin ? begin + timeout_ns : INT64_MAX;
  const uint32_t at = b->taken.load(std::memory_order_relaxed);
  while (b->made.load(std::memory_order_acquire) == at) {
    if (b->ended.load() != 0 && b->made.load() == at) return -1;
    const int64_t at_ns = rta_latest_now_ns();
    if (at_ns >= until || b->config.manual) return 0;
    rta::os::wait_at(b->made, at, std::min(until, at_ns + kLookNs));  // the end may come just before the sleep
  }
  const Results& r = b->results[at % b->results.size()];
  *batch = {r.count, r.streams.data(), r.stamps.data(), r.y.get(), r.status.data()};
  return 1;
}

RTA_API void rta_batcher_give_back(rta_batcher* b) {
  if (!b) return;
  b->taken.fetch_add(1);
  if (b->blocked.load()) b->wake();
}
