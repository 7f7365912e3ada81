// NVIDIA's driver, as far as a persistent kernel needs it: found when it is asked for, so nothing is linked with it.
//
// Types and numbers are those of cuda.h, which a machine with a driver alone does not have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rta::gpu {

using Status = int;  // CUresult
constexpr Status kSuccess = 0, kInvalidValue = 1, kNotReady = 600, kInvalidClusterSize = 912;

using Device = int;
using Address = uint64_t;  // CUdeviceptr
using Context = void*;
using Module = void*;
using Function = void*;
using Stream = void*;

enum Attribute {
  kMultiprocessors = 16,
  kTimeout = 17,
  kMapsHostMemory = 19,
  kMajor = 75,
  kMinor = 76,
  kCooperative = 95,
  kSharedOptIn = 97,
};
enum FunctionAttribute { kDynamicShared = 8, kLargeClusters = 14 };
constexpr unsigned kNonBlocking = 1, kMapped = 2;

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  Stream stream;
  void* attributes;
  unsigned count;
};

// The driver's own functions; those that older drivers lack may be null.
struct Driver {
  Status (*init)(unsigned);
  Status (*error_name)(Status, const char**);
  Status (*count)(int*);
  Status (*device)(Device*, int);
  Status (*attribute)(int*, Attribute, Device);
  Status (*retain)(Context*, Device);
  Status (*release)(Device);
  Status (*push)(Context);
  Status (*pop)(Context*);
  Status (*load)(Module*, const void*);
  Status (*unload)(Module);
  Status (*function)(Function*, Module, const char*);
  Status (*set)(Function, FunctionAttribute, int);
  Status (*allocate)(Address*, size_t);
  Status (*free)(Address);
  Status (*copy)(Address, const void*, size_t, Stream);
  Status (*allocate_host)(void**, size_t, unsigned);
  Status (*free_host)(void*);
  Status (*seen_by_device)(Address*, void*, unsigned);
  Status (*new_stream)(Stream*, unsigned);
  Status (*synchronize)(Stream);
  Status (*query)(Stream);
  Status (*destroy)(Stream);
  Status (*launch)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**,
                   void**);
  Status (*launch_cooperative)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream,
                               void**);
  Status (*clusters)(int*, Function, const LaunchConfig*);  // CUDA 12.0
  Status (*load_function)(Function);                        // 12.4
  Status (*parameter)(Function, size_t, size_t*, size_t*);  // 12.4
};

// Refuses with RTA_NO_DEVICE where there is none, and says what was missing. Opened once.
const Driver& driver();

// Refuses with RTA_DEVICE_FAILED, naming the call and what the driver said.
void check(Status status, const char* call);

}  // namespace rta::gpu
