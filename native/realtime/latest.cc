// Putting a value into a slot and getting it out: no lock, and neither side ever waits for the other.
#include <time.h>

#include <cstring>

#include "realtime/latest_words.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

namespace {

// Where the numbers go on: those of the newest whole value.
void resume(rta_latest* s) {
  const rta_latest_header* h = s->header;
  s->last_seq = s->last_stamp = 0;
  if (s->many) {
    s->last_seq = load(&h->latest, __ATOMIC_ACQUIRE);
    if (s->last_seq > 0) s->last_stamp = load(&stamp_at(s, (s->last_seq - 1) % 8)->stamp_ns);
    return;
  }
  const uint32_t word = load(&h->word, __ATOMIC_ACQUIRE);
  for (const uint32_t index : {middle(word), readers(word)}) {
    const rta_latest_stamp* b = stamp_at(s, index);
    if (b->seq > s->last_seq) s->last_seq = b->seq, s->last_stamp = b->stamp_ns;
  }
}

int claim(rta_latest* s, int role) {
  if (s->lent[role]) return RTA_LATEST_TAKEN;
  uint64_t* owner = role == RTA_LATEST_WRITER ? &s->header->writer : &s->header->reader;
  if (!(s->many && role == RTA_LATEST_READER)) {
    const uint64_t id = own_id();
    uint64_t there = 0;
    while (!__atomic_compare_exchange_n(owner, &there, id, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
      if (there == id || owner_alive(there)) return RTA_LATEST_TAKEN;
  }
  s->claimed[role] = generation.load(std::memory_order_relaxed);
  if (role == RTA_LATEST_WRITER) resume(s);
  return 0;
}

bool has_side(const rta_latest* s, int role) { return s->claimed[role] == generation.load(std::memory_order_relaxed); }

template <class T>
bool any_nan(const void* data, size_t count, T inf, T mask) {
  const T* at = static_cast<const T*>(data);
  bool found = false;
  for (size_t i = 0; i < count; ++i) found |= (at[i] & mask) > inf;
  return found;
}

bool has_nan(const rta_latest* s, const void* data) {
  switch (s->dtype) {
    case RTA_LATEST_FLOAT32: return any_nan<uint32_t>(data, s->payload / 4, 0x7f800000u, 0x7fffffffu);
    case RTA_LATEST_FLOAT64: return any_nan<uint64_t>(data, s->payload / 8, 0x7ff0000000000000u, 0x7fffffffffffffffu);
    case RTA_LATEST_BFLOAT16: return any_nan<uint16_t>(data, s->payload / 2, 0x7f80, 0x7fff);
    case RTA_LATEST_FLOAT16: return any_nan<uint16_t>(data, s->payload / 2, 0x7c00, 0x7fff);
    default: return false;
  }
}

// Word by word, so that a value that is read while it is written is torn in a way that can be seen, and no data race.
void copy_words(void* to, const void* from, size_t bytes, bool shared_to) {
  auto* t = static_cast<uint64_t*>(to);
  const auto* f = static_cast<const uint64_t*>(from);
  size_t i = 0;
  for (; i < bytes / 8; ++i) {
    if (shared_to) {
      uint64_t value;  // the caller's memory may lie anywhere
      std::memcpy(&value, f + i, 8);
      store(t + i, value);
    } else {
      t[i] = load(f + i);
    }
  }
  uint64_t rest = 0;
  if (bytes % 8 == 0) return;
  if (shared_to) {
    std::memcpy(&rest, f + i, bytes % 8);
    store(t + i, rest);
  } else {
    rest = load(f + i);
    std::memcpy(t + i, &rest, bytes % 8);
  }
}

void take_many(rta_latest* s, rta_latest_sample* out) {
  bool fresh = false;
  const int other = 1 - s->current;
  for (int tries = 0; tries < RTA_LATEST_TRIES && !fresh; ++tries) {
    const int64_t seq = load(&s->header->latest, __ATOMIC_ACQUIRE);
    if (seq <= s->seen) break;  // nothing newer
    rta_latest_stamp* b = stamp_at(s, static_cast<uint32_t>((seq - 1) % 8));
    if (load(&b->seq, __ATOMIC_ACQUIRE) != seq) continue;
    s->own_stamp[other] = {seq, load(&b->stamp_ns), load(&b->put_ns), load(&b->origin), {}};
    copy_words(s->own[other], reinterpret_cast<char*>(b) + kStampBytes, s->payload, false);
    std::atomic_thread_fence(std::memory_order_acquire);
    fresh = load(&b->seq) == seq;
  }
  if (fresh) s->current = other, s->seen = s->own_stamp[other].seq;
  const rta_latest_stamp& b = s->own_stamp[s->current];
  *out = {s->own[s->current], b.seq,    b.stamp_ns,
          b.put_ns,           b.origin, b.seq == 0 ? RTA_LATEST_NONE : fresh ? RTA_LATEST_NEW : RTA_LATEST_OLD};
}

}  // namespace

RTA_API int64_t rta_latest_now_ns(void) {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

RTA_API void rta_latest_leave(rta_latest* s) {
  if (!s) return;
  uint64_t* const owners[2] = {&s->header->writer, &s->header->reader};
  for (int role = 0; role < 2; ++role) {
    if (!has_side(s, role)) continue;
    uint64_t id = own_id();
    if (!(s->many && role == RTA_LATEST_READER))
      __atomic_compare_exchange_n(owners[role], &id, uint64_t{0}, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    s->claimed[role] = 0;
  }
}

RTA_API void* rta_latest_next(rta_latest* s) {
  if (!s) return nullptr;
  if (!s->many) return data_at(s, writers(load(&s->header->word)));
  const uint32_t index = static_cast<uint32_t>(s->last_seq % 8);
  store(&stamp_at(s, index)->seq, int64_t{0});
  std::atomic_thread_fence(std::memory_order_release);
  return data_at(s, index);
}

RTA_API int64_t rta_latest_publish(rta_latest* s, const void* data, int64_t stamp_ns, int64_t now_ns, int64_t origin) {
  if (!s) return no_slot();
  const int64_t seq = s->last_seq + 1;
  if (s->many) {
    const uint32_t index = static_cast<uint32_t>(s->last_seq % 8);
    rta_latest_stamp* b = stamp_at(s, index);
    if (data) copy_words(rta_latest_next(s), data, s->payload, true);
    store(&b->stamp_ns, stamp_ns);
    store(&b->put_ns, now_ns);
    store(&b->origin, origin);
    store(&b->seq, seq, __ATOMIC_RELEASE);
    store(&s->header->latest, seq, __ATOMIC_RELEASE);
  } else {
    uint32_t word = load(&s->header->word);
    rta_latest_stamp* b = stamp_at(s, writers(word));
    if (data) std::memcpy(reinterpret_cast<char*>(b) + kStampBytes, data, s->payload);
    b->seq = seq;
    b->stamp_ns = stamp_ns;
    b->put_ns = now_ns;
    b->origin = origin;
    // The reader can change the word once and then not again before this succeeds.
    while (!__atomic_compare_exchange_n(&s->header->word, &word, handed_over(word), false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
    }
  }
  s->last_seq = seq;
  s->last_stamp = stamp_ns;
  return seq;
}

RTA_API int64_t rta_latest_put_at(rta_latest* s, const void* data, int64_t stamp_ns, int64_t now_ns) {
  if (!s) return no_slot();
  if (stamp_ns > now_ns) return RTA_LATEST_FUTURE;
  if (stamp_ns < 0) return latest_error("a stamp before the clock began");
  if (s->nan == RTA_LATEST_NAN_REFUSE && has_nan(s, data)) return RTA_LATEST_HAS_NAN;
  if (stamp_ns < s->last_stamp) {
    rta_latest_header* h = s->header;
    if (s->last_stamp <= now_ns) {  // it was overtaken
      store(&h->dropped, h->dropped + 1);
      return RTA_LATEST_OLDER;
    }
    store(&h->clock_back, h->clock_back + 1);  // the clock was set back: the stamps before it say nothing any more
  }
  return rta_latest_publish(s, data, stamp_ns, now_ns, 0);
}

RTA_API int64_t rta_latest_put(rta_latest* s, const void* data, int64_t stamp_ns) {
  if (!s) return no_slot();
  if (!has_side(s, RTA_LATEST_WRITER))
    if (const int error = claim(s, RTA_LATEST_WRITER)) return error;
  const int64_t now = rta_latest_now_ns();
  return rta_latest_put_at(s, data, stamp_ns ? stamp_ns : now, now);
}

RTA_API void rta_latest_take(rta_latest* s, rta_latest_sample* out) {
  if (!s) {
    *out = {};
    return;
  }
  if (s->many) return take_many(s, out);
  uint32_t word = load(&s->header->word, __ATOMIC_ACQUIRE);
  uint32_t index = readers(word);
  if (word & kNew)  // only this side clears it: one addition turns p over and takes the mark away, whatever w is by now
    index = middle(__atomic_fetch_add(&s->header->word, kTop - kNew, __ATOMIC_ACQ_REL));
  const rta_latest_stamp* b = stamp_at(s, index);
  *out = {reinterpret_cast<const char*>(b) + kStampBytes,
          b->seq,
          b->stamp_ns,
          b->put_ns,
          b->origin,
          b->seq == 0   ? RTA_LATEST_NONE
          : word & kNew ? RTA_LATEST_NEW
                        : RTA_LATEST_OLD};
}

RTA_API int rta_latest_get(rta_latest* s, rta_latest_sample* out) {
  if (!s) return no_slot();
  if (!has_side(s, RTA_LATEST_READER))
    if (const int error = claim(s, RTA_LATEST_READER)) return error;
  rta_latest_take(s, out);
  return 0;
}

RTA_API int rta_latest_lend(rta_latest* s, rta_latest_role role) {
  if (!s) return no_slot();
  if (!has_side(s, role))
    if (const int error = claim(s, role)) return error;
  s->claimed[role] = 0;
  s->lent[role] = true;
  return 0;
}

RTA_API void rta_latest_take_back(rta_latest* s, rta_latest_role role) {
  if (!s || !s->lent[role]) return;
  s->lent[role] = false;
  s->claimed[role] = generation.load(std::memory_order_relaxed);
}
