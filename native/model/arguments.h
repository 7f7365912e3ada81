// What callers of the C ABI pass, looked at: what is wrong is told, in place of a crash.
#pragma once

#include "open_model.h"

namespace rta {

constexpr char kNoModel[] = "the model is NULL: rta_model_open failed, or was not called";

inline void need(const void* given, const char* what) {
  if (!given) refuse(RTA_BAD_ARGUMENT, "%s is NULL", what);
}
inline void need_model(const void* model) {
  if (!model) refuse(RTA_BAD_ARGUMENT, kNoModel);
}
// A copy of a caller's bytes.
inline Bytes bytes_at(const void* data, size_t size) {
  if (!data && size) refuse(RTA_BAD_ARGUMENT, "%zu bytes at no address", size);
  return Bytes(data, size);
}

// 0, or -1 with a text and a code. Without memory: a step that is refused allocates nothing either.
int check_step(const rta_model* model, const void* const* in, void* const* out, int64_t samples);
int refuse_streams(const rta_model* model);
int refuse_samples(const rta_model* model, int64_t samples);

// What the plan said stays; the code says that it was the numbers.
inline int ended(int result) {
  if (result == 0) return 0;
  last_code() = RTA_BAD_ARGUMENT;
  return -1;
}

}  // namespace rta
