// The host's side of a mailbox: stores of whole words, and a spin that asks the clock rarely.
#include <time.h>

#include <cmath>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "rta_mailbox.h"

namespace {

constexpr int kSpinsPerClock = 512;

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

// Tells the core that it spins: its sibling gets the execution units, and leaving the loop costs no flush.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether all words got the number in time. Words arrive in any order and stay once they are there.
bool wait_for(const uint64_t* from, uint32_t* payload, int64_t words, uint32_t sequence, int64_t timeout_ns) {
  int64_t start = 0;
  for (int64_t i = 0; i < words; ++i) {
    for (int spins = 0;; ++spins) {
      const uint64_t word = __atomic_load_n(from + i, __ATOMIC_ACQUIRE);
      if (static_cast<uint32_t>(word >> 32) == sequence) {
        payload[i] = static_cast<uint32_t>(word);
        break;
      }
      relax();
      if (timeout_ns > 0 && spins % kSpinsPerClock == kSpinsPerClock - 1) {
        const int64_t now = now_ns();
        if (start == 0) start = now;
        if (now - start > timeout_ns) return false;
      }
    }
  }
  return true;
}

void put(uint64_t* to, uint32_t payload, uint32_t sequence) {
  __atomic_store_n(to, static_cast<uint64_t>(sequence) << 32 | payload, __ATOMIC_RELEASE);
}

// Beyond these int8 numbers are their ends, whatever the zero point.
constexpr float kMost = 512.0f;

bool is_finite(const float* x) {
  uint32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

uint8_t int8_of(float x, float inverse, int32_t zero_point) {
  const float v = x * inverse;
  const float within = v > -kMost ? (v < kMost ? v : kMost) : -kMost;  // a NaN too
  const int q = static_cast<int>(std::nearbyintf(within)) + zero_point;
  return static_cast<uint8_t>(static_cast<int8_t>(q < -128 ? -128 : q > 127 ? 127 : q));
}

#if defined(__SSE2__)
// 16 numbers; lanes of `odd` become not zero where one is not finite.
__m128i int8_of(const float* x, __m128 inverse, __m128i zero_point, __m128i& odd) {
  const __m128 most = _mm_set1_ps(kMost), least = _mm_set1_ps(-kMost);
  const __m128i exponent = _mm_set1_epi32(0x7f800000);
  __m128i q[4];
  for (int i = 0; i < 4; ++i) {
    const __m128 v = _mm_loadu_ps(x + 4 * i);
    odd = _mm_or_si128(odd, _mm_cmpeq_epi32(_mm_and_si128(_mm_castps_si128(v), exponent), exponent));
    q[i] = _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(_mm_mul_ps(v, inverse), least), most));
    q[i] = _mm_add_epi32(q[i], zero_point);
  }
  return _mm_packs_epi16(_mm_packs_epi32(q[0], q[1]), _mm_packs_epi32(q[2], q[3]));
}
#endif

}  // namespace

#define RTA_API __attribute__((visibility("default")))

extern "C" {

RTA_API void rta_mailbox_put(uint64_t* to, uint32_t payload, uint32_t sequence) { put(to, payload, sequence); }

RTA_API void rta_mailbox_send(uint64_t* to, const uint32_t* request, int64_t request_words, uint32_t sequence) {
  for (int64_t i = 0; i < request_words; ++i) put(to + i, request[i], sequence);
}

RTA_API int rta_mailbox_send_int8(uint64_t* to, const float* x, int64_t numbers, float inverse, int32_t zero_point,
                                  uint32_t sequence) {
  int64_t i = 0;
  bool finite = true;
#if defined(__SSE2__)
  __m128i odd = _mm_setzero_si128();
  for (; i + 16 <= numbers; i += 16, to += 4) {
    alignas(16) uint32_t words[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(words),
                    int8_of(x + i, _mm_set1_ps(inverse), _mm_set1_epi32(zero_point), odd));
    for (int word = 0; word < 4; ++word) put(to + word, words[word], sequence);
  }
  finite = _mm_movemask_epi8(odd) == 0;
#endif
  for (; i < numbers; i += 4, ++to) {
    uint32_t word = 0;
    for (int64_t k = i; k < i + 4 && k < numbers; ++k) {
      finite = finite && is_finite(x + k);
      word |= static_cast<uint32_t>(int8_of(x[k], inverse, zero_point)) << 8 * (k - i);
    }
    put(to, word, sequence);
  }
  return finite;
}

RTA_API rta_mailbox_status rta_mailbox_wait(const uint64_t* from, uint32_t* reply, int64_t reply_words,
                                            uint32_t sequence, int64_t timeout_ns) {
  return wait_for(from, reply, reply_words, sequence, timeout_ns) ? RTA_MAILBOX_DONE : RTA_MAILBOX_TIMEOUT;
}

RTA_API rta_mailbox_status rta_mailbox_exchange(uint64_t* to, const uint32_t* request, int64_t request_words,
                                                const uint64_t* from, uint32_t* reply, int64_t reply_words,
                                                uint32_t sequence, int64_t timeout_ns) {
  rta_mailbox_send(to, request, request_words, sequence);
  return rta_mailbox_wait(from, reply, reply_words, sequence, timeout_ns);
}

RTA_API rta_mailbox_status rta_mailbox_echo(const uint64_t* from, int64_t request_words, uint64_t* to,
                                            int64_t reply_words, uint32_t sequence, int64_t timeout_ns) {
  uint32_t payload = 0;
  for (int64_t i = 0; i < request_words; ++i) {
    if (!wait_for(from + i, &payload, 1, sequence, timeout_ns)) return RTA_MAILBOX_TIMEOUT;
    if (i < reply_words) put(to + i, payload, sequence);
  }
  for (int64_t i = request_words; i < reply_words; ++i) put(to + i, payload, sequence);
  return RTA_MAILBOX_DONE;
}

}  // extern "C"
