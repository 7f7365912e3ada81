// kernels/_persistent/cuda_null.cu on a CPU: as a library that a test calls.
#include "kernel_arguments.h"
// Behind the fibers, which it runs on.
#include "_persistent/cuda_null.cu"

// The kernel's parameters in order: pointers as they are, numbers by where they lie. Returns when the kernel has ended.
extern "C" void rtaccel_on_host(const void* const* a, unsigned seed, int skipped, int) {
  host::launch(1, kAllThreads, kSharedBytes, seed, skipped, nullptr, pointer<const Word*>(a, 2), [=] {
    rtaccel_null(pointer<const Word*>(a, 0), pointer<Word*>(a, 1), pointer<Word*>(a, 2), value<int>(a, 3), nullptr,
                 nullptr);
  });
}
