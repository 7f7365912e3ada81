// kernels/recurrent/cuda/float32/layer.cu on a CPU: as a library that a test calls, and as a program that only touches
// memory, for a sanitizer.
#include "recurrent/cuda/float32/layer.cu"

#include "kernel_arguments.h"

constexpr int kPointers = 9;

// The kernel's parameters in order: pointers as they are, numbers by where they lie. One cluster after another.
// dropped: a word of the exchange that time step 2 lacks, -1 for none. A grid in which all wait for good ends.
extern "C" void rtaccel_on_host(const void* const* a, int streams, unsigned seed, int skipped, int dropped) {
  const Word give_up = 1;
  for (int stream = 0; stream < streams; ++stream)
    host::launch(
        kPrograms, kThreads, kSharedBytes, seed, skipped, nullptr, &give_up,
        [=] {
          rtaccel_layer(pointer<const float*>(a, 0), pointer<float*>(a, 1), pointer<const long long*>(a, 2),
                        pointer<const float*>(a, 3), pointer<const float*>(a, 4), pointer<float*>(a, 5),
                        pointer<float*>(a, 6), pointer<const uint4*>(a, 7), pointer<const float*>(a, 8),
                        value<int>(a, 9), value<int>(a, 10), value<int>(a, 11), nullptr, nullptr);
        },
        kCluster, dropped >= 0 ? kAtExchange + 8 * dropped : -1, stream);
}

#ifdef RTA_PROGRAM
// Every buffer by itself and of the size that it must have, for two samples of the second of two layers.
// argv[1]: the place in the list of one that is 16 bytes too short, which must be found.
int main(int count, char** given) {
  constexpr int streams = 2 * kBatch, rows = kTime * streams * kDirections;
  constexpr int state = 4 * streams * 2 * kDirections * kHidden;
  const int bytes[kPointers] = {4 * rows * kGates * kHidden,
                                4 * (kLast ? streams * kDirections : rows) * kHidden,
                                8 * streams,
                                state,
                                state,
                                state,
                                state,
                                16 * kDirections * kPrograms * kSteps * kThreads,
                                4 * kDirections * kHidden};
  Buffers buffers(bytes, count, given, [](int) { return false; });
  auto& arguments = buffers.arguments;
  for (int i = 0; i < streams && count < 2; ++i)
    reinterpret_cast<long long*>(buffers.memory[2].get())[i] = kTime - i % kTime;
  int first = 0, state_rows = 2 * kDirections, first_state = kDirections;
  for (const void* number : {(void*)&first, (void*)&state_rows, (void*)&first_state}) arguments.push_back(number);
  rtaccel_on_host(arguments.data(), streams * kDirections, 5, 0, -1);
  return 0;
}
#endif
