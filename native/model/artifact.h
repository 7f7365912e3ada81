// What is in a file that rt.save wrote, checked: docs/reference/artifact.md has its grammar.
//
// The file is a safetensors container. Nothing of its JSON is parsed here but the two fields at a fixed place; the
// first tensor, `plan`, has everything else: texts, values, inputs and outputs, stages, and where in the file their
// tensors are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rta_model.h"
#include "sha256.h"

namespace rta {

// Why a file is not taken: rta_error_code() gives the code, rta_error() the text.
[[noreturn]] void refuse(rta_code code, const char* format, ...) __attribute__((format(printf, 2, 3)));
rta_code& last_code();  // of this thread

// The bytes of a file, 64-byte aligned: a private copy, so that nobody can change them while they are looked at.
class Bytes {
 public:
  explicit Bytes(const char* path);  // refuses what is not a regular file, or changes while it is read
  Bytes(const void* data, size_t size);
  static Bytes mapped(const char* path);  // the file itself: nobody may write to it
  static Bytes of(const void* data,
                  size_t size);  // the bytes themselves where they are aligned; nobody may change them
  Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_), kind_(other.kind_) { other.data_ = nullptr; }
  ~Bytes();
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  bool stays() const;  // whether they can be read as long as a model is open

 private:
  Bytes() = default;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  enum { kOwn, kMapped, kForeign } kind_ = kOwn;
};

struct Artifact {
  struct StageRecord {
    const char *op, *name;
    std::vector<int> inputs, outputs;
    std::vector<rta_attr> attrs;  // texts and tensors point into the bytes
  };
  struct ValueRecord {
    rta_dtype dtype;
    rta_role role;
    int64_t steps, width;
  };

  // Looks at everything before it is used. The result points into `bytes`.
  Artifact(const Bytes& bytes, unsigned flags);

  const char *name, *texts;  // texts: all that name and the like point into
  size_t text_bytes;
  size_t packed_bytes;
  uint64_t most_bytes;  // that its plan may ask for: of packed weights, and of scratch and states
  int64_t streams, memory, batch_least, batch_most;
  const uint8_t* states;     // saved with the model, as rta_plan_save_state gives them
  size_t state_bytes;        // 0: none
  const uint8_t* prepacked;  // nullptr: none
  size_t prepacked_bytes;
  std::vector<ValueRecord> values;
  std::vector<rta_tensor> inputs, outputs;
  std::vector<StageRecord> stages;
};

// Where the digest and the signature are, and what they are of.
struct Seal {
  explicit Seal(const Bytes& bytes);  // refuses what has no such header
  Digest digest;                      // as it is written
  uint8_t signature[64];
  bool is_signed;
  Digest computed;  // of the bytes, now
};

}  // namespace rta
