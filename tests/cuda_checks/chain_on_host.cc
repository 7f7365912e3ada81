// kernels/mlp/cuda/chain.cu on a CPU: as a library that a test calls, and as a program that only touches memory, for a
// sanitizer.
#include <thread>

#include "kernel_arguments.h"
#include "mlp/cuda/chain.cu"

// The kernel's parameters in order: pointers as they are, numbers by where they lie. Returns when the kernel has ended.
// dropped: a word of a cluster's exchange that one message lacks in every block, -1 for none.
extern "C" void rtaccel_on_host(const void* const* a, unsigned seed, int skipped, int dropped) {
  host::launch(
      kParts, kAllThreads, kSharedBytes, seed, skipped, nullptr, pointer<const Word*>(a, 2),
      [=] {
        rtaccel_chain(pointer<const Word*>(a, 0), pointer<Word*>(a, 1), pointer<Word*>(a, 2),
                      pointer<const uint4*>(a, 3), pointer<const unsigned*>(a, 4), value<float>(a, 5), value<int>(a, 6),
                      value<int>(a, 7), value<int>(a, 8), nullptr, nullptr);
      },
      kParts > 1, kParts > 1 && dropped >= 0 ? kAtExchange + 8 * dropped : -1);
}

// Whether a launch is that of the kernel's form.
extern "C" int rtaccel_on_host_takes(unsigned blocks, unsigned threads, unsigned shared_bytes) {
  return blocks == kParts && threads == kAllThreads && shared_bytes == kSharedBytes;
}

#ifdef RTA_PROGRAM
// Every buffer by itself and of the size that it must have, with some numbers in it; four messages and the end. The
// second begins with the second set of weights, and the fourth goes back to the first.
// argv[1]: the place in the list of one that is 16 bytes too short, which must be found.
int main(int count, char** given) {
  const int bytes[] = {16 * (kXWords + 1), 16 * kOutputs, 64, static_cast<int>(2 * 16 * kSetWords), 2 * 4 * kSetParams};
  Buffers buffers(bytes, count, given, [](int i) { return i < 3; });
  auto& arguments = buffers.arguments;
  float scale = 20.0f;
  int zero_point = 3, idle = 0, second = 0;
  for (const void* number : {(void*)&scale, (void*)&zero_point, (void*)&idle, (void*)&second})
    arguments.push_back(number);
  std::thread kernel([&] { rtaccel_on_host(arguments.data(), 5, 0, -1); });
  Word *request = reinterpret_cast<Word*>(buffers.memory[0].get()),
       *reply = reinterpret_cast<Word*>(buffers.memory[1].get());
  const unsigned commands[] = {0, kRenew | kSecond, 0, kRenew};
  for (unsigned sequence = 1; sequence <= 4; ++sequence) {
    for (int i = 0; i <= kXWords; ++i)
      __atomic_store_n(request + (sequence & 1) * (kXWords + 1) + i,
                       word_of(i < kXWords ? 0x03fd0205u : commands[sequence - 1], sequence), __ATOMIC_RELEASE);
    for (int i = 0; i < kOutputs; ++i)
      while (number_of(__atomic_load_n(reply + (sequence & 1) * kOutputs + i, __ATOMIC_ACQUIRE)) != sequence)
        usleep(10);
  }
  __atomic_store_n(reinterpret_cast<Word*>(buffers.memory[2].get()), Word{1}, __ATOMIC_RELEASE);
  kernel.join();
  return __atomic_load_n(reinterpret_cast<Word*>(buffers.memory[2].get()) + 1, __ATOMIC_ACQUIRE) == kAborted ? 0 : 1;
}
#endif
