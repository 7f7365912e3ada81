// Words that say by themselves whether they are there: 32 bits of payload, and a number in the other half.
#pragma once

#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#endif

static __device__ __forceinline__ unsigned number_of(Word word) { return static_cast<unsigned>(word >> 32); }
static __device__ __forceinline__ Word word_of(unsigned payload, unsigned sequence) {
  return static_cast<Word>(sequence) << 32 | payload;
}
