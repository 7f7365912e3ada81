// kernels/recurrent/cuda/window.cu on a CPU: as a library that a test calls, and as a program that only touches memory,
// for a sanitizer.
#include "kernel_arguments.h"
#include "recurrent/cuda/window.cu"

constexpr int kPointers = 11;

// The kernel's parameters in order: pointers as they are, numbers by where they lie. One cluster after another.
// dropped: a word of the exchange that wave 2 lacks, -1 for none. A grid in which all wait for good ends.
extern "C" void rtaccel_on_host(const void* const* a, int streams, unsigned seed, int skipped, int dropped) {
  const Word give_up = 1;
  for (int stream = 0; stream < streams; ++stream)
    host::launch(
        kPrograms, kAllThreads, kSharedBytes, seed, skipped, nullptr, &give_up,
        [=] {
          rtaccel_window(pointer<const char*>(a, 0), pointer<char*>(a, 1), pointer<const long long*>(a, 2),
                         pointer<const float*>(a, 3), pointer<const float*>(a, 4), pointer<float*>(a, 5),
                         pointer<float*>(a, 6), pointer<const uint4*>(a, 7), pointer<const float*>(a, 8),
                         pointer<const int*>(a, 9), pointer<const float*>(a, 10), value<float>(a, 11),
                         value<int>(a, 12), value<float>(a, 13), value<float>(a, 14), value<int>(a, 15),
                         value<int>(a, 16), nullptr, nullptr);
        },
        kCluster, dropped >= 0 ? kAtExchange + 8 * dropped : -1, stream);
}

#ifdef RTA_PROGRAM
// Every buffer by itself and of the size that it must have, for three streams of two samples of some.
// argv[1]: the place in the list of one that is 16 bytes too short, which must be found.
int main(int count, char** given) {
  constexpr int streams = 2 * kBatch, steps = kTime * streams, state = 4 * streams * kLayers * kHidden;
  const int bytes[kPointers] = {(kX8 ? 1 : 4) * steps * kInputs,
                                (kY8 ? 1 : 4) * (kLast ? streams : steps) * kHidden,
                                8 * streams,
                                state,
                                state,
                                state,
                                state,
                                static_cast<int>(16 * kSetWords),
                                4 * kSetParams,
                                4 * kSetCompensation,
                                kGroup ? static_cast<int>(4 * kSetScales) : 4};
  Buffers buffers(bytes, count, given, [](int) { return false; });
  auto& arguments = buffers.arguments;
  for (int i = 0; i < streams && count < 2; ++i)
    reinterpret_cast<long long*>(buffers.memory[2].get())[i] = kTime - i % kTime;
  float scale = 20.0f;
  int zero_point = 3, first = 0;
  for (const void* number :
       {(void*)&scale, (void*)&zero_point, (void*)&scale, (void*)&scale, (void*)&zero_point, (void*)&first})
    arguments.push_back(number);
  rtaccel_on_host(arguments.data(), streams, 5, 0, -1);
  return 0;
}
#endif
