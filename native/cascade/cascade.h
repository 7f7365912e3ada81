// What a cascade holds. cascade.cc runs it, cascade_abi.cc is the C ABI.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "rta_cascade.h"

namespace rta_cascades {

using Memory = std::unique_ptr<char, void (*)(void*)>;

// Why the last call of this thread failed; gives -1.
int failed(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace rta_cascades

struct rta_cascade {
  std::vector<rta_cascade_stage> stages;
  std::vector<int64_t> counts, cost_ns;
  std::vector<int32_t> exits;  // by row of the last run
  std::vector<int64_t> going;  // rows that have not left, ascending
  // For rows that were brought together: inputs, answers, and the features of two stages in turn.
  rta_cascades::Memory inputs{nullptr, std::free}, answers{nullptr, std::free};
  rta_cascades::Memory features[2] = {{nullptr, std::free}, {nullptr, std::free}};
  int64_t width = 0, max_rows = 0, deadline_ns = 0, late = 0;
  int64_t loop_rows = 0;  // as a step of a loop
  bool heads = false;

  bool reserve(int64_t rows);
  int run(const void* in, float* out, int64_t rows, bool through);

 private:
  int answer(size_t i, const char* in, float* out, int64_t count, int64_t rows);
  int answer_some(size_t i, const char* in, float* out, int64_t count, int64_t rows);
  int advance(size_t i, const char* in, int64_t rows);
  int64_t test(size_t i, const float* y, int64_t count, int64_t rows);
};
