// Fuzzing of the loader, and of frames: files that begin as whole ones and were changed, opened and run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fuzz {

using Bytes = std::vector<uint8_t>;

// Splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t end) { return end ? bits() % end : 0; }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

// Changes a file in one place: a number of a record, a pair of them, an entry of a table, a byte anywhere. It knows
// where the records are; a file that is none gets bytes changed.
void mutate(Bytes& file, Random& random);

// Writes the digest of what is in the file now, as a forger would.
void reseal(Bytes& file);

// What became of the files that were looked at.
struct Counts {
  long files = 0, opened = 0, ran = 0, refused_inputs = 0;
  long launches = 0, refused_launches = 0;  // files with persistent kernels
};
extern Counts counts;

}  // namespace fuzz

// Opens the bytes as a model, runs a step on small inputs, and resets it. Returns 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
