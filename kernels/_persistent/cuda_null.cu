// A persistent model without a layer: it answers a message with the message. What every persistent model in CUDA C++
// does beside its own work is in it, and nothing else: warps that look at the mailbox in turn (cuda_poll.h), the
// message handed on to the threads that compute, their answer. cuda_echo.cu is the link without all that.
//
// Why this is CUDA C++: a Triton program cannot have warps that only poll.
//
// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif

#ifndef RTA_WORDS
#define RTA_WORDS 1     // of a message, and of its answer
#define RTA_POLLERS 4   // warps that poll the mailbox
#define RTA_SPINS 1024  // looks at the mailbox between two at the word that ends the kernel
#endif

// Behind the form, which says how often a warp looks.
#include "_persistent/cuda_poll.h"

constexpr int kWords = RTA_WORDS, kPollers = RTA_POLLERS, kThreads = 32, kAllThreads = kThreads + 32 * kPollers;

// Shared memory, in words of 32 bits: a message in two places; whether each ends the kernel; what the polling warps
// have among themselves.
constexpr int kAtEnds = 2 * kWords, kAtPoll = kAtEnds + 2, kSharedBytes = (4 * (kAtPoll + 4) + 15) / 16 * 16;

extern "C" __global__ void __launch_bounds__(kAllThreads, 1)
    rtaccel_null(const Word* request, Word* reply, Word* control, int idle_looks, void*, void*) {
  volatile unsigned* const shared = reinterpret_cast<volatile unsigned*>(shared_memory());
  const int thread = threadIdx.x;
  for (int at = thread; at < kSharedBytes / 4; at += kAllThreads) shared[at] = 0;
  __syncthreads();
  unsigned* const polls = reinterpret_cast<unsigned*>(shared_memory()) + kAtPoll;
  if (thread >= kThreads) {
    const int lane = thread % 32;
    poll<kWords, kPollers>((thread - kThreads) / 32, lane, request, control, polls, idle_looks,
                           [&](unsigned sequence, const auto& payload, unsigned why) {
                             const int place = sequence & 1;
#pragma unroll
                             for (int i = 0; i < (kWords + 31) / 32; ++i)
                               if (lane + 32 * i < kWords) shared[place * kWords + lane + 32 * i] = payload[i];
                             if (lane == 0) shared[kAtEnds + place] = why;
                             fence_block();
                             arrive<2, kThreads + 32>();
                           });
    return;
  }
  if (thread == 0) store_system(control + 1, kRunning);
  for (unsigned sequence = 1;; ++sequence) {
    const int place = sequence & 1;
    if (thread == 0) static_cast<volatile unsigned*>(polls)[kWanted] = sequence;
    meet<2, kThreads + 32>();
    if (shared[kAtEnds + place]) break;
    for (int word = thread; word < kWords; word += kThreads)
      store_system(reply + place * kWords + word, word_of(shared[place * kWords + word], sequence));
  }
  if (thread == 0) store_system(control + 1, polls[kWhyEnded]);
}
