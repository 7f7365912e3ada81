// From a path to bytes in memory, and what the header at the front of them says.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

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

class File {
 public:
  explicit File(const char* path) : descriptor_(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) refuse(RTA_CANNOT_READ, "%s: %s", path, std::strerror(errno));
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  struct stat state(const char* path) const {
    struct stat found;
    if (fstat(descriptor_, &found) != 0) refuse(RTA_CANNOT_READ, "%s: %s", path, std::strerror(errno));
    return found;
  }
  size_t read_into(uint8_t* to, size_t most) const {
    size_t have = 0;
    while (have < most) {
      const ssize_t got = read(descriptor_, to + have, most - have);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      have += static_cast<size_t>(got);
    }
    return have;
  }

 private:
  int descriptor_;
};

uint8_t* allocated(size_t size) {
  const size_t rounded = (size + kAlignment) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (!memory) refuse(RTA_CANNOT_READ, "no memory for %zu bytes", size);
  return static_cast<uint8_t*>(memory);
}

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

void refuse(rta_code code, const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Refused(code, text);
}

Bytes::Bytes(size_t size) : data_(allocated(size)), size_(size) {}

Bytes::Bytes(const void* data, size_t size) : Bytes(size) {
  if (size) std::memcpy(data_, data, size);
}

Bytes::Bytes(const char* path) : data_(nullptr), size_(0) {
  const File file(path);
  const struct stat before = file.state(path);
  if (!S_ISREG(before.st_mode)) refuse(RTA_CANNOT_READ, "%s is not a regular file", path);
  const auto size = static_cast<size_t>(before.st_size);
  Bytes own(size);
  uint8_t more;
  const size_t got = file.read_into(own.data_, size), behind = file.read_into(&more, 1);
  const struct stat after = file.state(path);
  if (got != size || behind || after.st_size != before.st_size || after.st_mtim.tv_nsec != before.st_mtim.tv_nsec ||
      after.st_mtim.tv_sec != before.st_mtim.tv_sec)
    refuse(RTA_CANNOT_READ, "%s changed while it was read", path);
  data_ = own.data_;
  size_ = size;
  own.data_ = nullptr;
}

Bytes::~Bytes() { std::free(data_); }

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
