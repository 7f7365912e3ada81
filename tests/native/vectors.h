// Inputs and results of the primitives of simd_*.h: arrays of kCount, a multiple of the lanes of every set.
#pragma once

#include <cstdint>

#include "_core/isa.h"

namespace check {

constexpr int kCount = 64, kDotK = 32;

enum FloatOp {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFma,
  kMax,
  kMin,
  kAbs,
  kCopySign,
  kWhereLess,
  kSelect,
  kSqrt,
  kRsqrt,
  kRound,
  kToFloat,
  kLoadBf16,
  kDotBf16,
  kFloatOps
};
enum IntOp {
  kToInt,
  kAddInt,
  kSubInt,
  kMulInt,
  kMaxInt,
  kMinInt,
  kAndInt,
  kShiftLeft,
  kShiftRight,
  kBitsOfAbs,
  kAsInt,
  kLoadU8,
  kLoadS8,
  kLoadU16,
  kDot,
  kBf16Bits,
  kIntOps
};

struct VectorInputs {
  float a[kCount], b[kCount], c[kCount], small[kCount];  // small: |v| < 2^22, no NaN
  int32_t u[kCount], v[kCount], exponents[kCount];
  uint16_t halves[kCount];
  int8_t weights[kCount][kDotK];
  uint16_t bf16_weights[kCount][kDotK];
  uint16_t bf16_x[kDotK];
  uint8_t x[kDotK];       // q + 128
  uint8_t bytes[kCount];  // last, so that it ends where the memory does
};

struct VectorResults {
  float floats[kFloatOps][kCount];
  int32_t ints[kIntOps][kCount];
  uint8_t bytes[kCount];
  uint16_t halves[kCount], bfloats[kCount];
  bool parts_right;  // loads, stores and reductions that depend on the number of lanes
};

void add_vectors(rta::Isa isa, void (*apply)(const VectorInputs&, VectorResults&));

}  // namespace check
