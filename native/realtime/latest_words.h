// How a slot hands its buffers over: one word says whose each buffer is, and one exchange a side changes it.
#pragma once

#include "realtime/latest_memory.h"

namespace rta_realtime {

// The two buffers that are not the writer's, the smaller first; the last row is for a word that was written over.
constexpr uint32_t kOthers[4][2] = {{1, 2}, {0, 2}, {0, 1}, {0, 1}};

inline uint32_t writers(uint32_t word) { return (word & 3) == 3 ? 2 : word & 3; }
inline uint32_t middle(uint32_t word) { return kOthers[word & 3][word >> 31]; }
inline uint32_t readers(uint32_t word) { return kOthers[word & 3][1 - (word >> 31)]; }

// The writer's buffer and the middle one change places.
inline uint32_t handed_over(uint32_t word) {
  const uint32_t w = writers(word), m = middle(word), r = readers(word);
  return m | kNew | (w < r ? 0 : kTop);
}

inline rta_latest_stamp* stamp_at(const rta_latest* s, uint32_t index) {
  return reinterpret_cast<rta_latest_stamp*>(static_cast<char*>(s->map.base) + kHeaderBytes + index * s->stride);
}

inline char* data_at(const rta_latest* s, uint32_t index) {
  return reinterpret_cast<char*>(stamp_at(s, index)) + kStampBytes;
}

template <class T>
void store(T* to, T value, int order = __ATOMIC_RELAXED) {
  __atomic_store_n(to, value, order);
}
template <class T>
T load(const T* from, int order = __ATOMIC_RELAXED) {
  return __atomic_load_n(from, order);
}

}  // namespace rta_realtime
