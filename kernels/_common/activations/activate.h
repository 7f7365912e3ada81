// The activation functions by enumerator: what table.def says, over the vectors S.
#pragma once

#include "_common/activations/functions.h"

namespace rta {

enum class Activation {
#define RTA_ROW(kind, name, ...) kind,
#include "_common/activations/table.def"
#undef RTA_ROW
};

template <class S>
RTA_FUNCTION typename S::F activate(Activation kind, float parameter, typename S::F t) {
  const typename S::F zero = S::set(0.0f);
  switch (kind) {
#define RTA_ROW(kind, name, ...) \
  case Activation::kind: return __VA_ARGS__;
#include "_common/activations/table.def"
#undef RTA_ROW
  }
  return t;
}

}  // namespace rta
