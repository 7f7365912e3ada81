// What an open model holds.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "artifact.h"

namespace rta {

struct Chosen {
  std::string name, op, kernel, weight_dtype;
  std::vector<std::string> suitable;  // kernels of this build that could compute it on some processor
};

// What a key signs: a name, so that no signature made for something else is one of a model, and the digest.
std::string signed_message(const Digest& digest);

}  // namespace rta

struct rta_model {
  rta_model(const rta::Bytes& bytes, unsigned flags, int threads);
  ~rta_model();
  rta_model(const rta_model&) = delete;
  void swap(const rta::Bytes& bytes, unsigned flags);
  bool takes(int64_t samples) const;

  rta_plan* plan = nullptr;
  rta_plan* other = nullptr;  // offered, or what was there before the last swap
  int threads;
  std::string name;
  int64_t batch_least = 0, batch_most = -1, streams = 0;
  int64_t each = 1;                    // samples of a batch of one; 0 where no dimension is samples
  std::vector<rta_tensor> tensors[2];  // inputs, outputs
  std::deque<std::string> names;       // of these
  std::vector<rta::Chosen> chosen;     // by stage
};
