// SipHash-2-4 with 64 bits (J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rta {

// Fed in pieces; every piece but the last is a multiple of 8 bytes.
class SipHash {
 public:
  explicit SipHash(const uint8_t key[16]) {
    const uint64_t k0 = word(key), k1 = word(key + 8);
    v_[0] = k0 ^ 0x736f6d6570736575ull;
    v_[1] = k1 ^ 0x646f72616e646f6dull;
    v_[2] = k0 ^ 0x6c7967656e657261ull;
    v_[3] = k1 ^ 0x7465646279746573ull;
  }
  void words(const void* data, size_t bytes) {
    const uint8_t* at = static_cast<const uint8_t*>(data);
    uint64_t a = v_[0], b = v_[1], c = v_[2], d = v_[3];
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
      const uint64_t m = word(at + i);
      d ^= m;
      round(a, b, c, d);
      round(a, b, c, d);
      a ^= m;
    }
    v_[0] = a, v_[1] = b, v_[2] = c, v_[3] = d;
    total_ += bytes & ~size_t{7};
  }
  uint64_t finish(const void* data, size_t bytes) {
    words(data, bytes);
    const size_t left = bytes & 7;
    uint64_t m = 0;
    if (left) std::memcpy(&m, static_cast<const uint8_t*>(data) + (bytes - left), left);
    m |= (total_ + left) << 56;
    uint64_t a = v_[0], b = v_[1], c = v_[2], d = v_[3] ^ m;
    round(a, b, c, d);
    round(a, b, c, d);
    a ^= m;
    c ^= 0xff;
    for (int i = 0; i < 4; ++i) round(a, b, c, d);
    return a ^ b ^ c ^ d;
  }

 private:
  static uint64_t word(const uint8_t* at) {
    uint64_t w;
    std::memcpy(&w, at, 8);
    return w;
  }
  static void round(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d) {
    a += b, c += d;
    b = std::rotl(b, 13) ^ a, d = std::rotl(d, 16) ^ c;
    a = std::rotl(a, 32);
    c += b, a += d;
    b = std::rotl(b, 17) ^ c, d = std::rotl(d, 21) ^ a;
    c = std::rotl(c, 32);
  }
  uint64_t v_[4];
  uint64_t total_ = 0;
};

static_assert(std::endian::native == std::endian::little, "frames are written as the memory of the machine has them");

}  // namespace rta
