#include <sys/mman.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "latest_memory.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

static_assert(sizeof(rta_latest_header) == kHeaderBytes && sizeof(rta_latest_stamp) == kStampBytes);
static_assert(offsetof(rta_latest_header, shape) == 64 && offsetof(rta_latest_header, writer) == 192 &&
              offsetof(rta_latest_header, word) == 256 && offsetof(rta_latest_header, latest) == 320 &&
              offsetof(rta_latest_header, dropped) == 384);

namespace {

// The two buffers that are not the writer's, the smaller first; the last row is for a word that was written over.
constexpr uint32_t kOthers[4][2] = {{1, 2}, {0, 2}, {0, 1}, {0, 1}};

uint32_t writers(uint32_t word) { return (word & 3) == 3 ? 2 : word & 3; }
uint32_t middle(uint32_t word) { return kOthers[word & 3][word >> 31]; }
uint32_t readers(uint32_t word) { return kOthers[word & 3][1 - (word >> 31)]; }

// The writer's buffer and the middle one change places.
uint32_t handed_over(uint32_t word) {
  const uint32_t w = writers(word), m = middle(word), r = readers(word);
  return m | kNew | (w < r ? 0 : kTop);
}

rta_latest_stamp* stamp_at(const rta_latest* s, uint32_t index) {
  return reinterpret_cast<rta_latest_stamp*>(static_cast<char*>(s->map.base) + kHeaderBytes + index * s->stride);
}

char* data_at(const rta_latest* s, uint32_t index) { return reinterpret_cast<char*>(stamp_at(s, index)) + kStampBytes; }

template <class T>
void store(T* to, T value, int order = __ATOMIC_RELAXED) {
  __atomic_store_n(to, value, order);
}
template <class T>
T load(const T* from, int order = __ATOMIC_RELAXED) {
  return __atomic_load_n(from, order);
}

struct Wanted {
  uint32_t dtype, ndim, readers, nan;
  int64_t shape[RTA_LATEST_DIMS];
  size_t payload;
};

size_t dtype_bytes(uint32_t dtype) {
  switch (dtype) {
    case RTA_LATEST_INT8:
    case RTA_LATEST_UINT8:
    case RTA_LATEST_BOOL: return 1;
    case RTA_LATEST_BFLOAT16:
    case RTA_LATEST_FLOAT16:
    case RTA_LATEST_INT16: return 2;
    case RTA_LATEST_FLOAT32:
    case RTA_LATEST_INT32: return 4;
    case RTA_LATEST_INT64:
    case RTA_LATEST_FLOAT64: return 8;
    default: return 0;
  }
}

size_t stride_of(size_t payload) { return kStampBytes + (payload + 63) / 64 * 64; }
size_t total_of(const Wanted& w) { return kHeaderBytes + (w.readers == RTA_LATEST_ONE ? 3 : 8) * stride_of(w.payload); }

bool describe(Wanted& w) {
  size_t elements = 1;
  if (w.ndim > RTA_LATEST_DIMS) return latest_error("%u dimensions; at most %d", w.ndim, RTA_LATEST_DIMS), false;
  for (uint32_t d = 0; d < w.ndim; ++d) {
    if (w.shape[d] < 1 || static_cast<size_t>(w.shape[d]) > kMaxBytes / elements)
      return latest_error("dimension %u of %lld elements", d, static_cast<long long>(w.shape[d])), false;
    elements *= static_cast<size_t>(w.shape[d]);
  }
  w.payload = elements * dtype_bytes(w.dtype);
  if (!dtype_bytes(w.dtype)) return latest_error("dtype %u is unknown", w.dtype), false;
  if (w.payload > kMaxBytes / 16) return latest_error("a value of %zu bytes", w.payload), false;
  if (w.readers != RTA_LATEST_ONE && w.readers != RTA_LATEST_MANY) return latest_error("readers %u", w.readers), false;
  return true;
}

void fill(rta_latest_header* h, const Wanted& w) {
  std::memcpy(h->magic, RTA_LATEST_MAGIC, 8);
  h->version = RTA_LATEST_VERSION;
  h->header_bytes = kHeaderBytes;
  h->total_bytes = total_of(w);
  h->payload_bytes = w.payload;
  h->stride = stride_of(w.payload);
  h->readers = w.readers;
  h->buffers = w.readers == RTA_LATEST_ONE ? 3 : 8;
  h->dtype = w.dtype;
  h->ndim = w.ndim;
  h->nan = w.nan;
  std::memcpy(h->shape, w.shape, sizeof h->shape);
  h->word = 0;  // w = 0, then the middle one 1, then the reader's 2
  store(&h->ready, 1u, __ATOMIC_RELEASE);
}

// What lies there, whether it is a slot and the one wanted.
bool read_back(const rta_latest_header* h, size_t bytes, Wanted& found) {
  if (bytes < kHeaderBytes || std::memcmp(h->magic, RTA_LATEST_MAGIC, 8) != 0)
    return latest_error("there is something else than a slot"), false;
  if (h->version != RTA_LATEST_VERSION || h->header_bytes != kHeaderBytes)
    return latest_error("a slot of version %u; this is version %d", h->version, RTA_LATEST_VERSION), false;
  found = {h->dtype, h->ndim, h->readers, h->nan, {}, 0};
  std::memcpy(found.shape, h->shape, sizeof found.shape);
  if (!describe(found)) return false;
  if (h->payload_bytes != found.payload || h->stride != stride_of(found.payload) || bytes < total_of(found))
    return latest_error("the header of a slot contradicts itself"), false;
  return true;
}

bool made_or_fits(void* base, size_t bytes, bool fresh, const void* from) {
  auto* h = static_cast<rta_latest_header*>(base);
  const auto* wanted = static_cast<const Wanted*>(from);
  if (wanted && (fresh || (bytes >= kHeaderBytes && load(&h->ready) == 0 && bytes == total_of(*wanted)))) {
    fill(h, *wanted);  // also of one whose maker died before it was ready
    return true;
  }
  Wanted found;
  if (!read_back(h, bytes, found)) return false;
  if (!wanted) return true;
  if (found.dtype != wanted->dtype || found.readers != wanted->readers || found.nan != wanted->nan ||
      found.ndim != wanted->ndim || std::memcmp(found.shape, wanted->shape, sizeof found.shape) != 0)
    return latest_error("a slot of another shape, dtype, kind of readers or NaN policy has this name"), false;
  return true;
}

rta_latest* handle(const Mapping& map) {
  if (!map.base) return nullptr;
  Wanted w;
  auto* slot = new (std::nothrow) rta_latest();
  if (!slot || !read_back(static_cast<rta_latest_header*>(map.base), map.bytes, w)) {
    delete slot;
    munmap(map.base, map.bytes);
    return nullptr;
  }
  slot->map = map;
  slot->header = static_cast<rta_latest_header*>(map.base);
  slot->payload = w.payload;
  slot->stride = stride_of(w.payload);
  slot->many = w.readers == RTA_LATEST_MANY;
  slot->buffers = slot->many ? 8 : 3;
  slot->dtype = w.dtype;
  slot->nan = w.nan;
  for (char*& copy : slot->own) {
    if (!slot->many) break;
    copy = static_cast<char*>(std::aligned_alloc(64, slot->stride));
    if (!copy) {
      latest_error("no memory");
      rta_latest_close(slot);
      return nullptr;
    }
    std::memset(copy, 0, slot->stride);
  }
  return slot;
}

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

RTA_API rta_latest* rta_latest_create(const char* name, uint32_t dtype, int ndim, const int64_t* shape,
                                      rta_latest_readers readers, rta_latest_nan nan) {
  Wanted w = {dtype, static_cast<uint32_t>(ndim), static_cast<uint32_t>(readers), static_cast<uint32_t>(nan), {}, 0};
  if (ndim < 0 || ndim > RTA_LATEST_DIMS) return latest_error("%d dimensions", ndim), nullptr;
  for (int d = 0; d < ndim; ++d) w.shape[d] = shape[d];
  if (!describe(w)) return nullptr;
  if (name) return handle(map_shared(name, total_of(w), made_or_fits, &w));
  const Mapping map = map_private(total_of(w));
  if (map.base) fill(static_cast<rta_latest_header*>(map.base), w);
  return handle(map);
}

RTA_API rta_latest* rta_latest_open(const char* name) { return handle(map_shared(name, 0, made_or_fits, nullptr)); }

RTA_API void rta_latest_leave(rta_latest* s) {
  uint64_t* const owners[2] = {&s->header->writer, &s->header->reader};
  for (int role = 0; role < 2; ++role) {
    if (!has_side(s, role)) continue;
    uint64_t id = own_id();
    if (!(s->many && role == RTA_LATEST_READER))
      __atomic_compare_exchange_n(owners[role], &id, uint64_t{0}, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    s->claimed[role] = 0;
  }
}

RTA_API void rta_latest_close(rta_latest* s) {
  if (!s) return;
  rta_latest_leave(s);
  for (char* copy : s->own) std::free(copy);
  munmap(s->map.base, s->map.bytes);
  delete s;
}

RTA_API int rta_latest_unlink(const char* name) { return unlink_shared(name); }

RTA_API const rta_latest_header* rta_latest_describe(const rta_latest* s) { return s->header; }

RTA_API const void* rta_latest_buffer(const rta_latest* s, int index) {
  if (s->many) return index >= 0 && index < 2 ? s->own[index] : nullptr;
  return index >= 0 && index < 3 ? data_at(s, static_cast<uint32_t>(index)) : nullptr;
}

RTA_API void* rta_latest_next(rta_latest* s) {
  if (!s->many) return data_at(s, writers(load(&s->header->word)));
  const uint32_t index = static_cast<uint32_t>(s->last_seq % 8);
  store(&stamp_at(s, index)->seq, int64_t{0});
  std::atomic_thread_fence(std::memory_order_release);
  return data_at(s, index);
}

RTA_API int64_t rta_latest_publish(rta_latest* s, const void* data, int64_t stamp_ns, int64_t now_ns, int64_t origin) {
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
  if (!has_side(s, RTA_LATEST_WRITER))
    if (const int error = claim(s, RTA_LATEST_WRITER)) return error;
  const int64_t now = rta_latest_now_ns();
  return rta_latest_put_at(s, data, stamp_ns ? stamp_ns : now, now);
}

RTA_API void rta_latest_take(rta_latest* s, rta_latest_sample* out) {
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
  if (!has_side(s, RTA_LATEST_READER))
    if (const int error = claim(s, RTA_LATEST_READER)) return error;
  rta_latest_take(s, out);
  return 0;
}

RTA_API int rta_latest_lend(rta_latest* s, rta_latest_role role) {
  if (!has_side(s, role))
    if (const int error = claim(s, role)) return error;
  s->claimed[role] = 0;
  s->lent[role] = true;
  return 0;
}

RTA_API void rta_latest_take_back(rta_latest* s, rta_latest_role role) {
  if (!s->lent[role]) return;
  s->lent[role] = false;
  s->claimed[role] = generation.load(std::memory_order_relaxed);
}

RTA_API int rta_latest_lock_memory(rta_latest* s) { return mlock(s->map.base, s->map.bytes); }
