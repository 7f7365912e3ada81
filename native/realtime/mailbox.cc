// The host's side of a mailbox: stores of whole words, and a spin that asks the clock rarely.
#include <time.h>

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

}  // namespace

#define RTA_API __attribute__((visibility("default")))

extern "C" {

RTA_API void rta_mailbox_put(uint64_t* to, uint32_t payload, uint32_t sequence) { put(to, payload, sequence); }

RTA_API void rta_mailbox_send(uint64_t* to, const uint32_t* request, int64_t request_words, uint32_t sequence) {
  for (int64_t i = 0; i < request_words; ++i) put(to + i, request[i], sequence);
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
