// kernels/recurrent/cuda/recurrent.cu on a CPU: as a library that a test calls, and as a program that only touches
// memory, for a sanitizer.
#include <thread>

#include "kernel_arguments.h"
#include "recurrent/cuda/recurrent.cu"

// The kernel's parameters in order: pointers as they are, numbers by where they lie. Returns when the kernel has ended.
// dropped: a word of the exchange that one message lacks, -1 for none.
extern "C" void rtaccel_on_host(const void* const* a, unsigned seed, int skipped, int dropped) {
  const Word* lost = dropped < 0 || kCluster ? nullptr : pointer<const Word*>(a, 11) + dropped;
  host::launch(
      kPrograms, kAllThreads, kSharedBytes, seed, skipped, lost, pointer<const Word*>(a, 2),
      [=] {
        rtaccel_recurrent(pointer<const Word*>(a, 0), pointer<Word*>(a, 1), pointer<Word*>(a, 2), pointer<Word*>(a, 3),
                          pointer<const uint4*>(a, 4), pointer<const float*>(a, 5), pointer<const int*>(a, 6),
                          pointer<const float*>(a, 7), pointer<const uint4*>(a, 8), pointer<const float*>(a, 9),
                          pointer<const int*>(a, 10), pointer<Word*>(a, 11), value<float>(a, 12), value<int>(a, 13),
                          value<float>(a, 14), value<float>(a, 15), value<int>(a, 16), value<int>(a, 17),
                          value<int>(a, 18), nullptr, nullptr);
      },
      kCluster, kCluster && dropped >= 0 ? kAtExchange + 8 * dropped : -1);
}

// Whether a launch is that of the kernel's form.
extern "C" int rtaccel_on_host_takes(unsigned blocks, unsigned threads, unsigned shared_bytes) {
  return blocks == kPrograms && threads == kAllThreads && shared_bytes == kSharedBytes;
}

#ifdef RTA_PROGRAM
// Every buffer by itself and of the size that it must have, with some numbers in it; six messages and the end. The
// fourth begins with the second set of weights, and the sixth goes back to the first.
// argv[1]: the place in the list of one that is 16 bytes too short, which must be found.
int main(int count, char** given) {
  constexpr int words = kPrograms > 1 && !kCluster ? kExchangeWords : 1;
  const int bytes[] = {16 * (kInputs + 1),
                       16 * kOutputs,
                       64,
                       16 * kLayers * kHidden,
                       static_cast<int>(2 * 16 * kSetWords),
                       2 * 4 * kSetParams,
                       2 * 4 * kSetCompensation,
                       kGroup ? static_cast<int>(2 * 4 * kSetScales) : 4,
                       kHead ? 2 * 16 * kSetHeadWords : 16,
                       kHead ? 2 * 4 * kSetHeadParams : 4,
                       kHead ? 2 * 4 * kOutputs : 4,
                       8 * words};
  Buffers buffers(bytes, count, given, [](int i) { return i < 4 || i == 11; });
  auto& arguments = buffers.arguments;
  float scale = 20.0f;
  int zero_point = 3, idle = 0, second = 0;
  for (const void* number : {(void*)&scale, (void*)&zero_point, (void*)&scale, (void*)&scale, (void*)&zero_point,
                             (void*)&idle, (void*)&second})
    arguments.push_back(number);
  std::thread kernel([&] { rtaccel_on_host(arguments.data(), 5, 0, -1); });
  Word *request = reinterpret_cast<Word*>(buffers.memory[0].get()),
       *reply = reinterpret_cast<Word*>(buffers.memory[1].get());
  Word* past = reinterpret_cast<Word*>(buffers.memory[3].get());
  const unsigned commands[] = {0, kReset, kSave, kLoad | kRenew | kSecond, 0, kRenew};
  for (unsigned sequence = 1; sequence <= 6; ++sequence) {
    if (commands[sequence - 1] & kLoad)
      for (int i = 0; i < 2 * kLayers * kHidden; ++i)
        __atomic_store_n(past + i, word_of(0, sequence), __ATOMIC_RELEASE);
    for (int i = 0; i <= kInputs; ++i)
      __atomic_store_n(request + (sequence & 1) * (kInputs + 1) + i,
                       word_of(i < kInputs ? 0x3d000000u : commands[sequence - 1], sequence), __ATOMIC_RELEASE);
    const auto await_all = [&](const Word* from, int words) {
      for (int i = 0; i < words; ++i)
        while (number_of(__atomic_load_n(from + i, __ATOMIC_ACQUIRE)) != sequence) usleep(10);
    };
    await_all(reply + (sequence & 1) * kOutputs, kOutputs);
    if (commands[sequence - 1] == kSave) await_all(past, (kGates == 4 ? 2 : 1) * kLayers * kHidden);
  }
  __atomic_store_n(reinterpret_cast<Word*>(buffers.memory[2].get()), Word{1}, __ATOMIC_RELEASE);
  kernel.join();
  return __atomic_load_n(reinterpret_cast<Word*>(buffers.memory[2].get()) + 1, __ATOMIC_ACQUIRE) == kAborted ? 0 : 1;
}
#endif
