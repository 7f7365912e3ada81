// From a path to bytes in memory, and what the header at the front of them says.
#if !defined(__wasm__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "_core/memory.h"
#include "_core/stage.h"
#include "artifact.h"

namespace rta {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kDigestText = 64, kSignatureText = 128, kCheckText = 8;

// The header up to the first byte that is hashed: a length of 8 bytes, then this text with its fields filled in.
constexpr char kBeforeDigest[] = R"({"__metadata__":{"sha256":")";
constexpr char kBeforeSignature[] = R"(","ed25519":")";
constexpr size_t kDigestAt = 8 + sizeof kBeforeDigest - 1;
constexpr size_t kSignatureAt = kDigestAt + kDigestText + sizeof kBeforeSignature - 1;
constexpr size_t kHashedFrom = kSignatureAt + kSignatureText + kCheckText + 1;  // and the quote

// nullptr where there is no memory.
uint8_t* allocated(size_t size) {
  if (size > SIZE_MAX / 2) return nullptr;
  const size_t rounded = (size + kAlignment) / kAlignment * kAlignment;
#ifdef RTA_PACKED
  return static_cast<uint8_t*>(temporary(rounded));
#else
  return static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
#endif
}

void freed(uint8_t* memory) {
#ifdef RTA_PACKED
  static_cast<void>(memory);
#else
  std::free(memory);
#endif
}

#if !defined(__wasm__)
size_t read_into(int descriptor, uint8_t* to, size_t most) {
  size_t have = 0;
  while (have < most) {
    const ssize_t got = read(descriptor, to + have, most - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    have += static_cast<size_t>(got);
  }
  return have;
}

#if defined(__APPLE__)
#define st_mtim st_mtimespec
#endif
bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec && a.st_mtim.tv_sec == b.st_mtim.tv_sec;
}
#endif

void hex(const uint8_t* bytes, size_t count, char* to) {
  for (size_t i = 0; i < count; ++i) std::snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

int nibble(uint8_t c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

void from_hex(const uint8_t* text, size_t count, uint8_t* to, const char* what) {
  for (size_t i = 0; i < count; ++i) {
    const int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);
    if (high < 0 || low < 0) refuse(RTA_BAD_FORMAT, "the %s is not written in lower-case hexadecimal digits", what);
    to[i] = static_cast<uint8_t>(high << 4 | low);
  }
}

}  // namespace

rta_code& last_code() {
  static thread_local rta_code code = RTA_OK;
  return code;
}

void refuse(rta_code code, const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  last_code() = code;
  fail("%s", text);
}

Bytes::Bytes(const void* data, size_t size) : data_(allocated(size)), size_(size) {
  if (!data_) refuse(RTA_CANNOT_READ, "no memory for %zu bytes", size);
  if (size) std::memcpy(data_, data, size);
}

#if defined(__wasm__)
Bytes::Bytes(const char* path) {
  refuse(RTA_CANNOT_READ, "%s: a page reads files itself, and gives their bytes to rta_model_within", path);
}
#else
// Nothing is refused while the file is open: a failure may be a jump, which closes nothing.
Bytes::Bytes(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) refuse(RTA_CANNOT_READ, "%s: %s", *path ? path : "an empty path", std::strerror(errno));
  struct stat before, after;
  bool known = fstat(descriptor, &before) == 0, whole = false;
  const bool regular = known && S_ISREG(before.st_mode);
  if (regular) {
    size_ = static_cast<size_t>(before.st_size);
    data_ = allocated(size_);
  }
  if (data_) {
    uint8_t more;
    whole = read_into(descriptor, data_, size_) == size_ && read_into(descriptor, &more, 1) == 0;
    known = fstat(descriptor, &after) == 0;
    whole &= known && same_file(before, after);
  }
  const int error = errno;
  close(descriptor);
  if (known && whole) return;
  const bool room = data_;
  freed(data_);
  if (!known) refuse(RTA_CANNOT_READ, "%s: %s", path, std::strerror(error));
  if (!regular) refuse(RTA_CANNOT_READ, "%s is not a regular file", path);
  if (!room) refuse(RTA_CANNOT_READ, "no memory for %zu bytes", size_);
  refuse(RTA_CANNOT_READ, "%s changed while it was read", path);
}
#endif

Bytes Bytes::of(const void* data, size_t size) {
  if (reinterpret_cast<uintptr_t>(data) % kAlignment) return Bytes(data, size);
  Bytes bytes;
  bytes.data_ = const_cast<uint8_t*>(static_cast<const uint8_t*>(data));
  bytes.size_ = size;
  bytes.kind_ = kForeign;
  return bytes;
}

#ifndef RTA_PACKED
Bytes Bytes::mapped(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat found{};
  const bool known = descriptor >= 0 && fstat(descriptor, &found) == 0;
  const bool regular = known && S_ISREG(found.st_mode) && found.st_size > 0;
  const auto size = static_cast<size_t>(found.st_size);
  void* start = regular ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (known && !regular) refuse(RTA_CANNOT_READ, "%s is not a regular file with something in it", path);
  if (start == MAP_FAILED) refuse(RTA_CANNOT_READ, "%s: %s", path, std::strerror(error));
  Bytes bytes;
  bytes.data_ = static_cast<uint8_t*>(start);
  bytes.size_ = size;
  bytes.kind_ = kMapped;
  return bytes;
}
#endif

// In a packed library a copy goes with the call that made it.
bool Bytes::stays() const {
#ifdef RTA_PACKED
  return kind_ == kForeign;
#else
  return true;
#endif
}

Bytes::~Bytes() {
  if (kind_ == kOwn) freed(data_);
#ifndef RTA_PACKED
  if (kind_ == kMapped && data_) munmap(data_, size_);
#endif
}

Seal::Seal(const Bytes& bytes) {
  const uint8_t* at = bytes.data();
  if (bytes.size() < kHashedFrom) refuse(RTA_BAD_FORMAT, "%zu bytes are no model", bytes.size());
  if (std::memcmp(at + 8, kBeforeDigest, sizeof kBeforeDigest - 1) != 0 ||
      std::memcmp(at + kDigestAt + kDigestText, kBeforeSignature, sizeof kBeforeSignature - 1) != 0 ||
      at[kHashedFrom - 1] != '"')
    refuse(RTA_BAD_FORMAT, "it does not begin as a model that rt.save wrote");
  computed = sha256(at + kHashedFrom, bytes.size() - kHashedFrom);
  from_hex(at + kDigestAt, sizeof digest.bytes, digest.bytes, "digest");
  // Eight digits of a digest of its own: a flipped bit of the signature shows where nobody has the key.
  const uint8_t* text = at + kSignatureAt;
  from_hex(text, sizeof signature, signature, "signature");
  is_signed = false;
  for (uint8_t byte : signature) is_signed |= byte != 0;
  char check[kCheckText + 1] = "00000000";
  if (is_signed) hex(sha256(text, kSignatureText).bytes, kCheckText / 2, check);
  if (std::memcmp(text + kSignatureText, check, kCheckText) != 0)
    refuse(RTA_BAD_DIGEST, "the signature was changed after it was written");
}

}  // namespace rta
