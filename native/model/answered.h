// Where failures of the C ABI end: the kind of a failure is kept beside its text.
#pragma once

#include "_core/guard.h"
#include "artifact.h"
#ifdef RTA_PACKED
#include "packed/rta_packed.h"
#endif

namespace rta {

// What f() gives, or `failure`; rta_error_code() says which it was.
template <class F, class T>
T answered(T failure, F f) {
  last_code() = RTA_OTHER;
  T result = failure;
  const bool held = attempt([&] { result = f(); });
#ifdef RTA_PACKED
  release_temporaries();
#endif
  if (!held) return failure;
  last_code() = RTA_OK;
  return result;
}

}  // namespace rta
