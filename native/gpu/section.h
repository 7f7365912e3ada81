// The launches of persistent kernels in a file: docs/reference/artifact.md has the grammar.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/artifact.h"

namespace rta::gpu {

// What a parameter of a kernel is.
enum class Kind : uint32_t {
  kRequests = 0,  // memory that both sides see: messages to the kernel, two slots
  kReplies = 1,
  kControl = 2,
  kPast = 3,       // states, where somebody asks for them
  kMemory = 4,     // memory of the card; begins with bytes of the file, zeros behind
  kWord = 5,       // a number of 4 bytes
  kLong = 6,       // of 8
  kSecond = 7,     // of 4: 1 where the kernel is to begin with the second set of weights
  kInverse = 8,    // of 4: a kWord, float32, by which the host multiplies x before it rounds it to int8
  kZeroPoint = 9,  // of 4: the zero point of that
  kFactors = 10    // none: float32 numbers of the file by which the host multiplies x
};
inline bool is_word(Kind kind) { return kind == Kind::kWord || (kind >= Kind::kSecond && kind < Kind::kFactors); }
struct Parameter {
  Kind kind;
  uint64_t value;        // the number; of memory, where its bytes begin in the section
  uint64_t bytes, room;  // of memory: in the file, and on the card
};

constexpr int kControlWords = 8, kKey = 32;

// A kernel for one capability, and how it is launched. The pointers are into the file's bytes.
struct Stored {
  int capability;
  unsigned blocks, threads, shared_bytes, cluster;
  bool cooperative, commands;  // commands: a message has a word more
  int64_t inputs, outputs, states;
  const uint8_t* code;
  size_t code_bytes;
  const char *entry, *name;
  std::string key;  // a hash of its sources and of how they are compiled
  std::vector<Parameter> parameters;

  bool rounded = false;  // whether messages have x as int8 numbers, four a word
  float inverse = 1;
  int32_t zero_point = 0;
  std::vector<float> factors;  // of the columns of x, or none

  int64_t x_words() const { return rounded ? (inputs + 3) / 4 : inputs; }
  int64_t request_words() const { return x_words() + commands; }
  // Bytes of a parameter's memory, 0 for a number. Of `kPast` at least a word, as the kernel has an address.
  uint64_t room(const Parameter& p) const;
  // Whether memory is for two sets of weights, of which the file has one.
  static bool is_weights(const Parameter& p) { return p.kind == Kind::kMemory && p.bytes && p.room == 2 * p.bytes; }
};

// Those of a file, in its order, every number looked at; `section` receives its start. Refuses a file without any.
std::vector<Stored> stored_in(const Bytes& bytes, const uint8_t** section);

}  // namespace rta::gpu
