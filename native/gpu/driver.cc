// Opens libcuda by its name and looks its functions up.
#include "driver.h"

#include <dlfcn.h>

#include "model/artifact.h"

namespace rta::gpu {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";

template <class F>
bool find(void* library, F*& function, const char* name) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

void need(bool found, const char* name) {
  if (!found) refuse(RTA_NO_DEVICE, "%s has no %s: it is older than CUDA 11", kLibrary, name);
}

Driver opened() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library) refuse(RTA_NO_DEVICE, "NVIDIA's driver is not here: %s", dlerror());
  Driver d{};
  const auto required = [library](auto*& function, const char* name) { need(find(library, function, name), name); };
  required(d.init, "cuInit");
  required(d.error_name, "cuGetErrorName");
  required(d.count, "cuDeviceGetCount");
  required(d.device, "cuDeviceGet");
  required(d.attribute, "cuDeviceGetAttribute");
  required(d.retain, "cuDevicePrimaryCtxRetain");
  required(d.release, "cuDevicePrimaryCtxRelease_v2");
  required(d.push, "cuCtxPushCurrent_v2");
  required(d.pop, "cuCtxPopCurrent_v2");
  required(d.load, "cuModuleLoadData");
  required(d.unload, "cuModuleUnload");
  required(d.function, "cuModuleGetFunction");
  required(d.set, "cuFuncSetAttribute");
  required(d.allocate, "cuMemAlloc_v2");
  required(d.free, "cuMemFree_v2");
  required(d.copy, "cuMemcpyHtoDAsync_v2");
  required(d.allocate_host, "cuMemHostAlloc");
  required(d.free_host, "cuMemFreeHost");
  required(d.seen_by_device, "cuMemHostGetDevicePointer_v2");
  required(d.new_stream, "cuStreamCreate");
  required(d.synchronize, "cuStreamSynchronize");
  required(d.query, "cuStreamQuery");
  required(d.destroy, "cuStreamDestroy_v2");
  required(d.launch, "cuLaunchKernel");
  required(d.launch_cooperative, "cuLaunchCooperativeKernel");
  find(library, d.clusters, "cuOccupancyMaxActiveClusters");
  find(library, d.load_function, "cuFuncLoad");
  find(library, d.parameter, "cuFuncGetParamInfo");
  const Status status = d.init(0);
  if (status != kSuccess) {
    const char* name = nullptr;
    d.error_name(status, &name);
    refuse(RTA_NO_DEVICE, "the driver does not start: cuInit gave %d, %s", status, name ? name : "an unknown error");
  }
  return d;
}

}  // namespace

const Driver& driver() {
  static const Driver found = opened();  // asked again after a failure
  return found;
}

void check(Status status, const char* call) {
  if (status == kSuccess) return;
  const char* name = nullptr;
  driver().error_name(status, &name);
  refuse(RTA_DEVICE_FAILED, "%s gave %d, %s", call, status, name ? name : "an unknown error");
}

}  // namespace rta::gpu
