// Activation functions on the CPU: by the name that a stage has, and on whole rows. The functions are those of
// _common/activations/table.def.
#pragma once

#include "_common/activations/activate.h"
#include "_core/stage.h"

namespace rta {

Activation parse_activation(const char* name);

// The activations that only keep numbers within bounds: none, a ReLU, and one that is clipped. They need no more than
// two operations on what is in registers already.
struct Bounds {
  float low, high;

  static constexpr bool are(Activation kind) {
    return kind == Activation::kNone || kind == Activation::kRelu || kind == Activation::kClippedRelu;
  }
  static Bounds of(Activation kind, float parameter) {
    return {kind == Activation::kNone ? -__builtin_inff() : 0.0f,
            kind == Activation::kClippedRelu ? parameter : __builtin_inff()};
  }
  template <class S>
  inline __attribute__((always_inline)) typename S::F within(typename S::F t) const {
    return S::min(S::set(high), S::max(S::set(low), t));  // a NaN stays
  }
};

template <Activation kind>
struct Always {
  static constexpr Activation value = kind;
};

// Whole rows of float vectors in place: the transcendental functions are compiled once per instruction set here,
// not into every tile of every kernel, and each in a loop of its own.
template <class S>
__attribute__((noinline)) static void activate_in_place(Activation kind, float parameter, float* values, int vectors) {
  const auto all = [&](auto constant) __attribute__((always_inline)) {
    if constexpr (constant.value == Activation::kNone) return;
    for (float* at = values; at != values + vectors * S::kLanes; at += S::kLanes)
      S::store(at, activate<S>(constant.value, parameter, S::load(at)));
  };
  switch (kind) {
#define RTA_ROW(kind, name, ...)                                                \
  case Activation::kind:                                                        \
    if constexpr (RTA_WANTS_ACTIVATION(#name)) all(Always<Activation::kind>{}); \
    return;
#include "_common/activations/table.def"
#undef RTA_ROW
  }
}

}  // namespace rta
