// How the operators of expressions make their stage. Its chains are much code, and the same for all of them: each
// instruction set has them once (cpu_stage.h), and the operators find them here. A packed program compiles what its
// model needs, and nothing is looked up.
#pragma once

#ifdef RTA_PACKED
#include "_expression/stage.h"
#else
#include "_core/stage.h"
#endif

namespace rta {
namespace expression {

using Create = Stage* (*)(const StageSpec&);

// Of a set: what cpu_stage.h puts there before main.
Create& creator(Isa isa);

template <class S>
static Stage* create(const StageSpec& spec) {
#ifdef RTA_PACKED
  return create_stage<ExpressionStage<S>>(spec);
#else
  return creator(S::kIsa)(spec);
#endif
}

}  // namespace expression
}  // namespace rta
