// The operands of an expression: where each lies, step by step of the iteration, and how it comes into a block of
// contiguous floats where it does not lie like that already.
#pragma once

#include "_common/strided.h"
#include "_common/whole_numbers.h"
#include "_simd/split_pairs.h"

namespace rta {
namespace expression {

constexpr int64_t kBlock = 512;  // floats of a block: with some operands and results aside it stays in the first cache
constexpr int64_t kPadded = kBlock + 128;

// An input, a constant or the result. stride: bytes, by dimension; of dimension 0 too, which the samples are, or are a
// part of.
struct Operand {
  GraphIO port;           // absent for a constant
  const float* constant;  // a constant
  int64_t offset;         // bytes
  int64_t stride[kMaxDims];
  const int64_t* table;  // bytes by element of a sample; nullptr where strides say it
  bool int64;
};

// count numbers at `stride` bytes from one another.
template <class S>
static inline void copy_run(float* to, const char* from, int64_t stride, int64_t count, bool int64) {
  if (int64 && stride == 8) {
    float_of_all(reinterpret_cast<const int64_t*>(from), count, to);
  } else if (int64) {
    for (int64_t i = 0; i < count; ++i)
      to[i] = static_cast<float>(*reinterpret_cast<const int64_t*>(from + i * stride));
  } else if (stride == 4) {
    const float* p = reinterpret_cast<const float*>(from);
    int64_t i = 0;
    for (; i + S::kLanes <= count; i += S::kLanes) S::store(to + i, S::load(p + i));
    if (i < count) S::store_n(to + i, S::load_n(p + i, static_cast<int>(count - i)), static_cast<int>(count - i));
  } else if (stride == 0) {
    const auto v = S::set(*reinterpret_cast<const float*>(from));
    int64_t i = 0;
    for (; i + S::kLanes <= count; i += S::kLanes) S::store(to + i, v);
    if (i < count) S::store_n(to + i, v, static_cast<int>(count - i));
  } else {
    int64_t i = 0;
    if (stride == 8) {  // every second number, as the parts of complex ones: the last one may have no second
      for (; i + S::kLanes < count; i += S::kLanes) {
        const float* p = reinterpret_cast<const float*>(from) + 2 * i;
        typename S::F even, odd;
        split_vectors(S::load(p), S::load(p + S::kLanes), even, odd, typename AllLanes<S::kLanes>::List());
        S::store(to + i, even);
      }
    }
    for (; i < count; ++i) to[i] = *reinterpret_cast<const float*>(from + i * stride);
  }
}

// `rows` runs of `wide` numbers, the runs `outer` bytes from one another and their numbers `inner`. Short runs are
// written by whole vectors, and each is written over by the next: there is room for a vector behind the last.
template <class S>
static inline void copy_runs(float* to, const char* from, int64_t outer, int64_t inner, int64_t rows, int64_t wide,
                             bool int64) {
  constexpr int64_t lanes = S::kLanes;
  if (!int64 && inner == 0) {
    for (int64_t k = 0; k < rows; ++k, to += wide, from += outer) {
      const auto v = S::set(*reinterpret_cast<const float*>(from));
      for (int64_t i = 0; i < wide; i += lanes) S::store(to + i, v);
    }
  } else if (!int64 && inner == 4 && outer == 0) {  // the same run again: each copy is as long as all before it
    copy_run<S>(to, from, 4, wide, false);
    const int64_t count = rows * wide;
    for (int64_t made = wide; made < count; made *= 2)
      for (int64_t i = 0; i < made && made + i < count; i += lanes) S::store(to + made + i, S::load(to + i));
  } else if (!int64 && inner == 4 && wide < lanes) {
    const int n = static_cast<int>(wide);
    for (int64_t k = 0; k < rows; ++k, to += wide, from += outer)
      S::store(to, S::load_n(reinterpret_cast<const float*>(from), n));
  } else {
    for (int64_t k = 0; k < rows; ++k) copy_run<S>(to + k * wide, from + k * outer, inner, wide, int64);
  }
}

// The other way, for a result whose elements do not follow one another.
template <class S>
static inline void scatter_run(char* to, const float* from, int64_t stride, int64_t count) {
  if (stride == 4) {
    copy_run<S>(reinterpret_cast<float*>(to), reinterpret_cast<const char*>(from), 4, count, false);
    return;
  }
  for (int64_t i = 0; i < count; ++i) *reinterpret_cast<float*>(to + i * stride) = from[i];
}

}  // namespace expression
}  // namespace rta
