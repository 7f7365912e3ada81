// What an open model holds.
#pragma once

#include <vector>

#include "_core/guard.h"
#include "_core/memory.h"
#include "artifact.h"

namespace rta {

// Refuses with what the plan said where it gave less than 0.
inline void checked(int result, rta_code code, const char* what) {
  if (result < 0) refuse(code, "%s: %s", what, last_error().c_str());
}

struct Chosen {
  const char *name, *op, *kernel;  // kernel: of the table
};

// What a key signs: a name, so that no signature made for something else is one of a model, and the digest.
struct SignedMessage {
  explicit SignedMessage(const Digest& digest);
  unsigned char bytes[24 + sizeof(Digest)];
};

// crypto_sign_verify_detached: 0 where a signature is good.
using Verify = int (*)(const unsigned char* signature, const unsigned char* message, unsigned long long bytes,
                       const unsigned char* key);
// Refuses what is not whole, or not signed with the secret half of this key. what: a path, for the text.
void check_signed(const Bytes& bytes, const char* what, const unsigned char* key, Verify verify);
// libsodium's; nullptr where the system has it not.
Verify found_verify();

#ifdef RTA_PACKED
// For a model from a file of so many bytes; what the file may ask for is bounded by this too.
size_t addresses(size_t bytes, unsigned flags);
#endif

}  // namespace rta

struct rta_model {
  rta_model(rta::Bytes bytes, unsigned flags, int threads);
  ~rta_model();
  rta_model(const rta_model&) = delete;
  void swap(rta::Bytes bytes, unsigned flags);
  bool takes(int64_t samples) const;
  int64_t most_samples() const;      // that a step may have
  void drop(rta_plan* which) const;  // and its memory, but for the model's own

  rta_plan* plan = nullptr;
  rta_plan* other = nullptr;  // offered, or what was there before the last swap
  int threads;
  rta::Region* region = nullptr;  // that it is in, in a packed library
  rta::Region* unused = nullptr;  // of a swap that is under way
  std::vector<char> texts;        // that all names below are in
  const char* name = nullptr;
  int64_t batch_least = 0, batch_most = -1, streams = 0;
  int64_t each = 1;                    // samples of a batch of one; 0 where no dimension is samples
  std::vector<rta_tensor> tensors[2];  // inputs, outputs
  std::vector<rta::Chosen> chosen;     // by stage
  const char* why_packed = nullptr;    // why packed weights of the file were not taken
};
