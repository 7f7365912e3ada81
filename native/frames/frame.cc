// The C ABI of frames (rta_frame.h): heads and descriptors written and checked.
#include <cstring>

#include "frame_rows.h"
#include "rta_frame.h"
#include "siphash.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t kHead = RTA_FRAME_HEAD_BYTES, kDescriptor = 40, kDigestAt = 56;
constexpr uint64_t kMost = 1ull << 31;  // bytes of a frame: sizes in it have 32 bits

struct Head {
  char magic[4];
  uint16_t version;
  uint8_t kind, tensors;
  uint64_t session, sequence;
  int64_t stamp_ns;
  uint8_t model[16];
  uint32_t bytes;
  uint16_t status, reserved;
  uint64_t digest;
};
static_assert(sizeof(Head) == kHead && offsetof(Head, digest) == kDigestAt);

struct Descriptor {
  uint8_t wire, rank;
  uint16_t reserved;
  uint32_t bytes;
  uint32_t dims[RTA_FRAME_DIMS];
  uint32_t reserved_too;
};
static_assert(sizeof(Descriptor) == kDescriptor);

uint64_t padded(uint64_t bytes) { return (bytes + 7) & ~uint64_t{7}; }

// Rows of the first dimension and numbers in each; false where they are too many for a frame.
bool sizes(const rta_frame_tensor& t, uint64_t& rows, uint64_t& width) {
  if (t.rank < 1 || t.rank > RTA_FRAME_DIMS) return false;
  rows = t.dims[0], width = 1;
  for (int i = 1; i < t.rank; ++i) {
    width *= t.dims[i];
    if (width > kMost) return false;
  }
  return rows <= kMost && rows * width <= kMost;
}

uint64_t digest_of(const uint8_t* frame, size_t size, const uint8_t key[16]) {
  rta::SipHash hash(key);
  hash.words(frame, kDigestAt);
  return hash.finish(frame + kHead, size - kHead);
}

}  // namespace

RTA_API uint64_t rta_siphash(const void* data, size_t size, const uint8_t key[16]) {
  return key ? rta::SipHash(key).finish(data, size) : 0;
}

RTA_API size_t rta_frame_tensor_bytes(const rta_frame_tensor* t) {
  uint64_t rows, width, bytes = 0;
  if (!t || !sizes(*t, rows, width)) return 0;
  switch (t->wire) {
    case RTA_WIRE_FLOAT32: bytes = rows * width * 4; break;
    case RTA_WIRE_INT8: bytes = rows * width; break;
    case RTA_WIRE_INT64: bytes = rows * width * 8; break;
    case RTA_WIRE_Q8: bytes = rows * (8 + width); break;
    case RTA_WIRE_Q4: bytes = rows * (8 + (width + 1) / 2); break;
    default: return 0;
  }
  return bytes < kMost ? bytes : 0;
}

RTA_API size_t rta_frame_bytes(const rta_frame_tensor* tensors, int count) {
  if (!tensors || count < 1 || count > RTA_FRAME_TENSORS) return 0;
  uint64_t total = kHead + kDescriptor * static_cast<uint64_t>(count);
  for (int i = 0; i < count; ++i) {
    const size_t bytes = rta_frame_tensor_bytes(tensors + i);
    if (!bytes) return 0;
    total += padded(bytes);
  }
  return total < kMost ? total : 0;
}

RTA_API int64_t rta_frame_write(void* out, size_t capacity, const rta_frame_head* head, const rta_frame_tensor* tensors,
                                int count, const uint8_t key[16]) {
  const size_t total = rta_frame_bytes(tensors, count);
  if (!total || !head || !key) return RTA_FRAME_LAYOUT;
  if (total > capacity) return RTA_FRAME_OVERSIZE;
  uint8_t* const frame = static_cast<uint8_t*>(out);
  Head h{{'R', 'T', 'A', 'F'},
         RTA_FRAME_VERSION,
         head->kind,
         static_cast<uint8_t>(count),
         head->session,
         head->sequence,
         head->stamp_ns,
         {},
         static_cast<uint32_t>(total),
         head->status,
         0,
         0};
  std::memcpy(h.model, head->model, sizeof h.model);
  std::memcpy(frame, &h, kHead);
  uint8_t* at = frame + kHead + kDescriptor * static_cast<size_t>(count);
  for (int i = 0; i < count; ++i) {
    const rta_frame_tensor& t = tensors[i];
    const size_t bytes = rta_frame_tensor_bytes(&t);
    Descriptor d{t.wire, t.rank, 0, static_cast<uint32_t>(bytes), {}, 0};
    std::memcpy(d.dims, t.dims, t.rank * sizeof(uint32_t));
    std::memcpy(frame + kHead + kDescriptor * static_cast<size_t>(i), &d, kDescriptor);
    uint64_t rows, width;
    sizes(t, rows, width);
    if (t.wire == RTA_WIRE_Q8) {
      rta::pack_rows<8>(static_cast<const float*>(t.data), rows, width, at);
    } else if (t.wire == RTA_WIRE_Q4) {
      rta::pack_rows<4>(static_cast<const float*>(t.data), rows, width, at);
    } else {
      std::memcpy(at, t.data, bytes);
    }
    std::memset(at + bytes, 0, padded(bytes) - bytes);
    at += padded(bytes);
  }
  const uint64_t digest = digest_of(frame, total, key);
  std::memcpy(frame + kDigestAt, &digest, sizeof digest);
  return static_cast<int64_t>(total);
}

RTA_API int rta_frame_parse(const void* data, size_t size, const uint8_t key[16], rta_frame_head* head,
                            rta_frame_tensor* tensors, int* count) {
  if (!key || !head || !tensors || !count) return RTA_FRAME_LAYOUT;
  const uint8_t* const frame = static_cast<const uint8_t*>(data);
  if (size < kHead) return RTA_FRAME_TRUNCATED;
  Head h;
  std::memcpy(&h, frame, kHead);
  if (std::memcmp(h.magic, "RTAF", 4) != 0) return RTA_FRAME_MAGIC;
  if (h.version != RTA_FRAME_VERSION) return RTA_FRAME_VERSION_OF;
  if (size < h.bytes) return RTA_FRAME_TRUNCATED;
  if (size > h.bytes) return RTA_FRAME_OVERSIZE;
  if (digest_of(frame, size, key) != h.digest) return RTA_FRAME_DIGEST;
  const bool kind = h.kind == RTA_FRAME_REQUEST || h.kind == RTA_FRAME_ANSWER;
  if (!kind || h.reserved || h.tensors < 1 || h.tensors > RTA_FRAME_TENSORS) return RTA_FRAME_LAYOUT;
  rta_frame_tensor found[RTA_FRAME_TENSORS];
  uint64_t at = kHead + kDescriptor * static_cast<uint64_t>(h.tensors);
  for (int i = 0; i < h.tensors; ++i) {
    const uint64_t from = kHead + kDescriptor * static_cast<uint64_t>(i);
    if (from + kDescriptor > size) return RTA_FRAME_LAYOUT;
    Descriptor d;
    std::memcpy(&d, frame + from, kDescriptor);
    rta_frame_tensor& t = found[i];
    t = {nullptr, d.bytes, {}, d.wire, d.rank};
    std::memcpy(t.dims, d.dims, sizeof t.dims);
    const size_t bytes = rta_frame_tensor_bytes(&t);
    if (!bytes || bytes != d.bytes || d.reserved || d.reserved_too || at + padded(bytes) > size)
      return RTA_FRAME_LAYOUT;
    for (int k = d.rank; k < RTA_FRAME_DIMS; ++k)
      if (d.dims[k]) return RTA_FRAME_LAYOUT;
    t.data = const_cast<uint8_t*>(frame + at);
    at += padded(bytes);
  }
  if (at != size) return RTA_FRAME_LAYOUT;
  *head = {h.session, h.sequence, h.stamp_ns, {}, h.status, h.kind};
  std::memcpy(head->model, h.model, sizeof h.model);
  std::memcpy(tensors, found, sizeof(rta_frame_tensor) * h.tensors);
  *count = h.tensors;
  return RTA_FRAME_OK;
}

RTA_API void rta_frame_unpack(const rta_frame_tensor* t, void* out) {
  uint64_t rows, width;
  if (!t || !sizes(*t, rows, width)) return;
  const uint8_t* const from = static_cast<const uint8_t*>(t->data);
  if (t->wire == RTA_WIRE_Q8) {
    rta::unpack_rows<8>(from, rows, width, static_cast<float*>(out));
  } else if (t->wire == RTA_WIRE_Q4) {
    rta::unpack_rows<4>(from, rows, width, static_cast<float*>(out));
  } else {
    std::memcpy(out, from, t->bytes);
  }
}

RTA_API int rta_frame_admit(rta_frame_guard* guard, const rta_frame_head* head) {
  if (!guard || !head) return RTA_FRAME_LAYOUT;
  if (head->session < guard->session) return RTA_FRAME_SESSION;
  if (head->session == guard->session) {
    if (head->sequence == guard->newest) return RTA_FRAME_REPLAYED;
    if (head->sequence < guard->newest) return RTA_FRAME_REORDERED;
  }
  guard->session = head->session;
  guard->newest = head->sequence;
  return RTA_FRAME_OK;
}
