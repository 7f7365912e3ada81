// Lines of float32 sorted by the digits of their bits, the last digit first. Equal numbers keep their order.
//
// A number becomes 32 bits that are in the order of the numbers, with its place below: a word of 64. Each digit takes
// one pass that counts nothing, as one pass before has counted all digits. So the time depends on the count alone,
// where merging waits for wrong predictions. Floor: n stores of 8 bytes for each of 3 or 4 digits.
#pragma once

#include <cstdint>
#include <cstring>

namespace rta {

// kDown: the largest first. kNanFirst: a NaN before all others, which kDown has too. S: so that each instruction set
// has its own.
template <class S, bool kDown, bool kNanFirst>
class RadixSort {
 public:
  // From so many numbers on it takes less time than merging.
  static constexpr int64_t kLeast = 192, kMost = int64_t{1} << 31;

  static uint64_t word_of(float value, int64_t place) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value == 0.0f) bits = 0;  // -0 is no smaller than 0
    const uint32_t up = bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
    uint32_t key = kDown ? ~up : up;
    if (value != value) key = kNanFirst ? 0u : 0xffffffffu;
    return uint64_t{key} << 32 | static_cast<uint32_t>(place);
  }
  static int64_t place_of(uint64_t word) { return static_cast<uint32_t>(word); }

  // n words, sorted: in `words`, or in `other`.
  static const uint64_t* sort(uint64_t* words, uint64_t* other, int64_t n) {
    return n < kWide ? by_digits<8>(words, other, n) : by_digits<11>(words, other, n);
  }

 private:
  static constexpr int64_t kWide = 1536;  // from which on fewer passes pay for more counters

  template <int kBits>
  static const uint64_t* by_digits(uint64_t* from, uint64_t* to, int64_t n) {
    constexpr int kDigits = (32 + kBits - 1) / kBits, kValues = 1 << kBits;
    uint32_t count[kDigits][kValues] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int d = 0; d < kDigits; ++d) ++count[d][digit<kBits>(from[i], d)];
    for (int d = 0; d < kDigits; ++d) {
      uint32_t* const first = count[d];
      if (first[digit<kBits>(from[0], d)] == n) continue;  // all have the same digit
      uint32_t before = 0;
      for (int v = 0; v < kValues; ++v) {
        const uint32_t own = first[v];
        first[v] = before;
        before += own;
      }
      for (int64_t i = 0; i < n; ++i) to[first[digit<kBits>(from[i], d)]++] = from[i];
      uint64_t* const swap = from;
      from = to;
      to = swap;
    }
    return from;
  }

  template <int kBits>
  static uint32_t digit(uint64_t word, int d) {
    return static_cast<uint32_t>(word >> (32 + d * kBits)) & ((1u << kBits) - 1);
  }
};

}  // namespace rta
