// An expression as a chain of steps over one accumulator: vectors that stay in registers from function to function.
// Each step ends in a call of the next one, which compilers make a jump of; its vectors are passed in registers.
//
// What is looked up in a step beside its 8 vectors: the function behind it, and where its operand lies. A hand-written
// loop has no jumps, but loses registers to its own constants; measured, the chain takes 0.7 to 1.3 times its time.
#pragma once

#include <cstring>

#include "_common/activations/activate.h"
#include "_core/stage.h"
#include "_expression/functions.h"

namespace rta {
namespace expression {

// Where an operand lies for this stretch of elements: at p + (k & mask). A mask of 0 repeats one tile.
struct Place {
  float* p;
  int64_t mask;
};

struct Step;
template <class S>
struct Chain8 {
  using F = typename S::F;
  using Go = void (*)(const Step*, int64_t, const Place*, F, F, F, F, F, F, F, F);
  static constexpr int kVectors = 8;
};
template <class S>
struct Chain2 {
  using F = typename S::F;
  using Go = void (*)(const Step*, int64_t, const Place*, F, F);
  static constexpr int kVectors = 2;
};

using AnyGo = void (*)();

struct Step {
  AnyGo go8, go2;
  int32_t a, b;
  float parameter;
  int32_t reads;  // how many of a and b it reads: both, a, or neither. -1: it writes a
};

// f over the vectors of the accumulator, each with its index, then the next step.
#define RTA_STEP8(name, ...)                                                                                          \
  static void name##8(const Step* step, int64_t k, const Place* at, F v0, F v1, F v2, F v3, F v4, F v5, F v6, F v7) { \
    const auto f = [&](F a, int j) __attribute__((always_inline)) -> F { __VA_ARGS__ };                               \
    v0 = f(v0, 0), v1 = f(v1, 1), v2 = f(v2, 2), v3 = f(v3, 3);                                                       \
    v4 = f(v4, 4), v5 = f(v5, 5), v6 = f(v6, 6), v7 = f(v7, 7);                                                       \
    reinterpret_cast<typename Chain8<S>::Go>(step[1].go8)(step + 1, k, at, v0, v1, v2, v3, v4, v5, v6, v7);           \
  }
#define RTA_STEP2(name, ...)                                                            \
  static void name##2(const Step* step, int64_t k, const Place* at, F v0, F v1) {       \
    const auto f = [&](F a, int j) __attribute__((always_inline)) -> F { __VA_ARGS__ }; \
    v0 = f(v0, 0), v1 = f(v1, 1);                                                       \
    reinterpret_cast<typename Chain2<S>::Go>(step[1].go2)(step + 1, k, at, v0, v1);     \
  }
#define RTA_STEPS(name, ...) RTA_STEP8(name, __VA_ARGS__) RTA_STEP2(name, __VA_ARGS__)

template <class S>
struct Steps {
  using F = typename S::F;

  static float* at_k(const Place* at, int32_t place, int64_t k) { return at[place].p + (k & at[place].mask); }
#define RTA_UNUSED static_cast<void>(step), static_cast<void>(k), static_cast<void>(at), static_cast<void>(j)
  RTA_STEPS(load, RTA_UNUSED; static_cast<void>(a); return S::load(at_k(at, step->a, k) + j * S::kLanes);)
  RTA_STEPS(store, RTA_UNUSED; S::store(at_k(at, step->a, k) + j * S::kLanes, a); return a;)
  RTA_STEPS(where, RTA_UNUSED; const F yes = S::load(at_k(at, step->a, k) + j * S::kLanes);
            const F no = S::load(at_k(at, step->b, k) + j * S::kLanes);
            return S::select(S::equal(a, S::set(0.0f)), no, yes);)
#define RTA_UNARY(name, ...) RTA_STEPS(f_##name, RTA_UNUSED; return __VA_ARGS__;)
#define RTA_BINARY(name, ...) \
  RTA_STEPS(f_##name, RTA_UNUSED; const F b = S::load(at_k(at, step->a, k) + j * S::kLanes); return __VA_ARGS__;)
#include "_expression/functions.def"
#undef RTA_UNARY
#undef RTA_BINARY
#define RTA_ROW(kind, name, ...)                                                                            \
  RTA_STEPS(act_##name, RTA_UNUSED; const F t = a; const F zero = S::set(0.0f);                             \
            const float parameter = step->parameter; static_cast<void>(zero), static_cast<void>(parameter); \
            return __VA_ARGS__;)
#include "_common/activations/table.def"
#undef RTA_ROW
#undef RTA_UNUSED

  // The last step: the accumulator to its place.
  static void end8(const Step* step, int64_t k, const Place* at, F v0, F v1, F v2, F v3, F v4, F v5, F v6, F v7) {
    float* y = at_k(at, step->a, k);
    constexpr int n = S::kLanes;
    S::store(y, v0), S::store(y + n, v1), S::store(y + 2 * n, v2), S::store(y + 3 * n, v3);
    S::store(y + 4 * n, v4), S::store(y + 5 * n, v5), S::store(y + 6 * n, v6), S::store(y + 7 * n, v7);
  }
  static void end2(const Step* step, int64_t k, const Place* at, F v0, F v1) {
    float* y = at_k(at, step->a, k);
    S::store(y, v0), S::store(y + S::kLanes, v1);
  }

  // The step of a name; nullptr functions where there is none.
  static Step named(const char* name) {
    const auto is = [&](const char* known) { return std::strcmp(name, known) == 0; };
    const auto made = [](auto* go8, auto* go2, int32_t reads) {
      return Step{reinterpret_cast<AnyGo>(go8), reinterpret_cast<AnyGo>(go2), -1, -1, 0.0f, reads};
    };
    if (is("load")) return made(&load8, &load2, 1);
    if (is("store")) return made(&store8, &store2, -1);
    if (is("where")) return made(&where8, &where2, 2);
#define RTA_UNARY(name, ...) \
  if (is(#name)) return made(&f_##name##8, &f_##name##2, 0);
#define RTA_BINARY(name, ...) \
  if (is(#name)) return made(&f_##name##8, &f_##name##2, 1);
#include "_expression/functions.def"
#undef RTA_UNARY
#undef RTA_BINARY
#define RTA_ROW(kind, name, ...) \
  if (is(#name)) return made(&act_##name##8, &act_##name##2, 0);
#include "_common/activations/table.def"
#undef RTA_ROW
    return {nullptr, nullptr, -1, -1, 0.0f, 0};
  }

  // The last of a chain: the accumulator to a place. It has no name, so no chain ends before.
  static Step last(int32_t place) {
    return {reinterpret_cast<AnyGo>(&end8), reinterpret_cast<AnyGo>(&end2), place, -1, 0.0f, -1};
  }
};
#undef RTA_STEPS
#undef RTA_STEP8
#undef RTA_STEP2

}  // namespace expression
}  // namespace rta
