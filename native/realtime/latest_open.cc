// Making, finding and closing a slot: its layout in memory, and that what lies there is one.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "realtime/latest_words.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

static_assert(sizeof(rta_latest_header) == kHeaderBytes && sizeof(rta_latest_stamp) == kStampBytes);
static_assert(offsetof(rta_latest_header, shape) == 64 && offsetof(rta_latest_header, writer) == 192 &&
              offsetof(rta_latest_header, word) == 256 && offsetof(rta_latest_header, latest) == 320 &&
              offsetof(rta_latest_header, dropped) == 384);

namespace {

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

}  // namespace

RTA_API rta_latest* rta_latest_create(const char* name, uint32_t dtype, int ndim, const int64_t* shape,
                                      rta_latest_readers readers, rta_latest_nan nan) {
  Wanted w = {dtype, static_cast<uint32_t>(ndim), static_cast<uint32_t>(readers), static_cast<uint32_t>(nan), {}, 0};
  if (ndim < 0 || ndim > RTA_LATEST_DIMS) return latest_error("%d dimensions", ndim), nullptr;
  if (ndim && !shape) return latest_error("%d dimensions at no address", ndim), nullptr;
  for (int d = 0; d < ndim; ++d) w.shape[d] = shape[d];
  if (!describe(w)) return nullptr;
  if (name) return handle(map_shared(name, total_of(w), made_or_fits, &w));
  const Mapping map = map_private(total_of(w));
  if (map.base) fill(static_cast<rta_latest_header*>(map.base), w);
  return handle(map);
}

RTA_API rta_latest* rta_latest_open(const char* name) { return handle(map_shared(name, 0, made_or_fits, nullptr)); }

RTA_API void rta_latest_close(rta_latest* s) {
  if (!s) return;
  rta_latest_leave(s);
  for (char* copy : s->own) std::free(copy);
  munmap(s->map.base, s->map.bytes);
  delete s;
}

RTA_API int rta_latest_unlink(const char* name) { return unlink_shared(name); }

RTA_API const rta_latest_header* rta_latest_describe(const rta_latest* s) { return s ? s->header : nullptr; }

RTA_API const void* rta_latest_buffer(const rta_latest* s, int index) {
  if (!s) return nullptr;
  if (s->many) return index >= 0 && index < 2 ? s->own[index] : nullptr;
  return index >= 0 && index < 3 ? data_at(s, static_cast<uint32_t>(index)) : nullptr;
}

RTA_API int rta_latest_lock_memory(rta_latest* s) { return s ? mlock(s->map.base, s->map.bytes) : no_slot(); }
