// libcuda in miniature, for a machine without a card: kernels run in threads, built for a CPU (on_host.py).
//
// Code that is loaded is compared with the files of the folder STAND_IN_CODE: NAME.cubin, and beside it NAME.so, which
// computes it, and NAME.sizes, the bytes of each parameter. An address of the card is none of the host's: whoever reads
// one here ends with a fault. What would wait for the device ends the process where a kernel runs.
//
//   STAND_IN_CARD      capability, multiprocessors, shared memory, clusters that it has room for, drives a display
//   STAND_IN_FAILS     the name of a function that fails; with "!", kernels that do not answer ("mute") or end ("deaf")
//   STAND_IN_KEEPS     a folder that receives a file for each launch
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kSuccess = 0, kInvalid = 1, kOutOfMemory = 2, kNoDevice = 100, kInvalidContext = 201, kNotFound = 500,
              kLaunchFailed = 719, kNotReady = 600, kTooLarge = 701;
constexpr uint64_t kOfCard = uint64_t{1} << 62, kPageless = 4096;

std::mutex mutex;
std::map<uint64_t, size_t> sizes;
std::map<uint64_t, void*> card_memory;  // by address of the card
std::map<void*, uint64_t> pinned;       // and where the card sees it
std::atomic<int> running{0}, modules{0}, streams{0}, retained{0}, launches{0};
thread_local std::vector<void*> contexts;
int the_context;

struct Code {
  std::string stem;
  std::vector<size_t> sizes;
  std::string entry;
  int shared = 48 << 10;
  bool loaded = false;
};
struct Queue {
  std::thread thread;
  std::atomic<bool> busy{false}, fault{false};
};

const char* given(const char* name, const char* otherwise) {
  const char* text = getenv(name);
  return text ? text : otherwise;
}
bool fails(const char* name) { return strcmp(given("STAND_IN_FAILS", ""), name) == 0; }
int of_card(int which) {
  int values[5] = {90, 132, 232448, 8, 0};
  sscanf(given("STAND_IN_CARD", ""), "%d,%d,%d,%d,%d", values, values + 1, values + 2, values + 3, values + 4);
  return values[which];
}
[[noreturn]] void broken(const char* what) {
  fprintf(stderr, "BROKEN: %s\n", what);
  _exit(70);
}
void alone(const char* what) {
  if (running) {
    fprintf(stderr, "BROKEN: %s beside a kernel that runs\n", what);
    _exit(70);
  }
}
bool starts_with_file(const void* image, const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return memcmp(image, text.str().data(), text.str().size()) == 0;
}
void* on_host(uint64_t value) {
  for (const auto& [at, memory] : card_memory)
    if (at == value) return memory;
  return value ? nullptr : &the_context;
}

}  // namespace

// What every function but the first begins with: its name, and whether a context has to be current.
#define ENTER(name, inside)                                 \
  if (fails(name)) return kOutOfMemory;                     \
  if ((inside) && contexts.empty()) return kInvalidContext; \
  const std::lock_guard<std::mutex> lock(mutex)

extern "C" {

int cuInit(unsigned) { return fails("cuInit") ? kNoDevice : kSuccess; }
int cuGetErrorName(int status, const char** name) {
  *name = status == kOutOfMemory    ? "CUDA_ERROR_OUT_OF_MEMORY"
          : status == kLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED"
          : status == kNoDevice     ? "CUDA_ERROR_NO_DEVICE"
                                    : "CUDA_ERROR_OF_ANOTHER_KIND";
  return kSuccess;
}
int cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}
int cuDeviceGet(int* device, int number) {
  *device = number;
  return kSuccess;
}
int cuDeviceGetAttribute(int* value, int which, int) {
  ENTER("cuDeviceGetAttribute", false);
  const int capability = of_card(0);
  switch (which) {
    case 16: *value = of_card(1); break;
    case 17: *value = of_card(4); break;
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 97: *value = of_card(2); break;
    default: *value = 1;
  }
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  ENTER("cuDevicePrimaryCtxRetain", false);
  ++retained;
  *context = &the_context;
  return kSuccess;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  --retained;
  return kSuccess;
}
int cuCtxPushCurrent_v2(void* context) {
  if (context != &the_context) return kInvalidContext;
  contexts.push_back(context);
  return kSuccess;
}
int cuCtxPopCurrent_v2(void** context) {
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}

int cuModuleLoadData(void** module, const void* image) {
  ENTER("cuModuleLoadData", true);
  alone("code is loaded");
  for (const auto& file : std::filesystem::directory_iterator(given("STAND_IN_CODE", ".")))
    if (file.path().extension() == ".cubin" && starts_with_file(image, file.path())) {
      auto* code = new Code;
      code->stem = file.path().parent_path() / file.path().stem();
      std::ifstream in(code->stem + ".sizes");
      in >> code->entry;
      for (size_t size; in >> size;) code->sizes.push_back(size);
      ++modules;
      *module = code;
      return kSuccess;
    }
  return kInvalid;
}
int cuModuleUnload(void* module) {
  alone("code is unloaded");
  --modules;
  delete static_cast<Code*>(module);
  return kSuccess;
}
int cuModuleGetFunction(void** function, void* module, const char* entry) {
  ENTER("cuModuleGetFunction", true);
  if (static_cast<Code*>(module)->entry != entry) return kNotFound;
  *function = module;
  return kSuccess;
}
int cuFuncLoad(void* function) {
  ENTER("cuFuncLoad", true);
  static_cast<Code*>(function)->loaded = true;
  return kSuccess;
}
int cuFuncSetAttribute(void* function, int which, int value) {
  ENTER("cuFuncSetAttribute", true);
  if (which == 8 && value > of_card(2)) return kInvalid;
  if (which == 8) static_cast<Code*>(function)->shared = value;
  return kSuccess;
}
int cuFuncGetParamInfo(void* function, size_t index, size_t*, size_t* size) {
  const auto& sizes = static_cast<Code*>(function)->sizes;
  if (index >= sizes.size()) return kInvalid;
  *size = sizes[index];
  return kSuccess;
}
int cuOccupancyMaxActiveClusters(int* count, void*, const void*) {
  ENTER("cuOccupancyMaxActiveClusters", true);
  *count = of_card(3);
  return kSuccess;
}

int cuMemAlloc_v2(uint64_t* at, size_t bytes) {
  ENTER("cuMemAlloc_v2", true);
  alone("memory is asked for");
  void* memory = aligned_alloc(kPageless, (bytes + kPageless - 1) / kPageless * kPageless);
  memset(memory, 0x7f, bytes);  // what was there before
  *at = kOfCard | reinterpret_cast<uint64_t>(memory);
  card_memory[*at] = memory;
  sizes[*at] = bytes;
  return kSuccess;
}
int cuMemFree_v2(uint64_t at) {
  alone("memory is given back");
  const std::lock_guard<std::mutex> lock(mutex);
  free(card_memory.at(at));
  card_memory.erase(at);
  return kSuccess;
}
int cuMemcpyHtoDAsync_v2(uint64_t at, const void* from, size_t bytes, void*) {
  ENTER("cuMemcpyHtoDAsync_v2", true);
  const auto memory = std::prev(card_memory.upper_bound(at));
  const size_t offset = at - memory->first;
  if (offset + bytes > sizes.at(memory->first)) broken("a copy beyond its memory");
  memcpy(static_cast<char*>(memory->second) + offset, from, bytes);
  return kSuccess;
}
int cuMemHostAlloc(void** at, size_t bytes, unsigned flags) {
  ENTER("cuMemHostAlloc", true);
  *at = aligned_alloc(kPageless, (bytes + kPageless - 1) / kPageless * kPageless);
  memset(*at, 0x7f, bytes);
  const uint64_t seen = flags & 2 ? kOfCard | reinterpret_cast<uint64_t>(*at) : 0;
  pinned[*at] = seen;
  if (seen) card_memory[seen] = *at;
  return kSuccess;
}
int cuMemFreeHost(void* at) {
  alone("memory of the host is given back");
  const std::lock_guard<std::mutex> lock(mutex);
  card_memory.erase(pinned.at(at));
  pinned.erase(at);
  free(at);
  return kSuccess;
}
int cuMemHostGetDevicePointer_v2(uint64_t* seen, void* at, unsigned) {
  ENTER("cuMemHostGetDevicePointer_v2", true);
  *seen = pinned.at(at);
  return *seen ? kSuccess : kInvalid;
}

int cuStreamCreate(void** stream, unsigned flags) {
  ENTER("cuStreamCreate", true);
  if (flags != 1) broken("a stream that waits for others");
  ++streams;
  *stream = new Queue;
  return kSuccess;
}
int cuStreamSynchronize(void* stream) {
  if (static_cast<Queue*>(stream)->busy) broken("waits for a persistent kernel");
  return kSuccess;
}
int cuStreamQuery(void* stream) {
  if (contexts.empty()) return kInvalidContext;
  auto* queue = static_cast<Queue*>(stream);
  return queue->fault ? kLaunchFailed : queue->busy ? kNotReady : kSuccess;
}
int cuStreamDestroy_v2(void* stream) {
  auto* queue = static_cast<Queue*>(stream);
  if (queue->thread.joinable()) queue->thread.join();
  delete queue;
  --streams;
  return kSuccess;
}

static int start(Code* code, unsigned blocks, unsigned threads, unsigned shared, Queue* queue, void** parameters) {
  void* library = dlopen((code->stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) broken(dlerror());
  const auto takes = reinterpret_cast<int (*)(unsigned, unsigned, unsigned)>(dlsym(library, "rtaccel_on_host_takes"));
  const auto run =
      reinterpret_cast<void (*)(const void* const*, unsigned, int, int)>(dlsym(library, "rtaccel_on_host"));
  if (!code->loaded) broken("a launch that loads code");
  if (!takes(blocks, threads, shared) || shared > static_cast<unsigned>(code->shared)) return kTooLarge;
  // Copies, as a launch makes them.
  auto* numbers = new std::vector<uint64_t>(code->sizes.size());
  auto* arguments = new std::vector<const void*>;
  for (size_t i = 0; i < code->sizes.size(); ++i) {
    uint64_t& value = (*numbers)[i];
    memcpy(&value, parameters[i], code->sizes[i]);
    arguments->push_back(&value);
    if (code->sizes[i] != 8) continue;
    void* memory = on_host(value);
    if (!memory) broken("a parameter that is no address of the card");
    arguments->back() = memory;
  }
  if (queue->thread.joinable()) queue->thread.join();
  queue->busy = true;
  ++running;
  const int number = ++launches;
  if (const char* folder = getenv("STAND_IN_KEEPS"))
    std::ofstream(std::string(folder) + "/" + std::to_string(number)) << code->stem << " " << blocks << "\n";
  const bool mute = fails("!mute"), deaf = fails("!deaf"), faulty = fails("!fault");
  auto* control = static_cast<std::atomic<int64_t>*>(const_cast<void*>(arguments->at(2)));
  queue->thread = std::thread([=] {
    if (mute || deaf || faulty) {
      if (!faulty) control[1] = 1;
      while (!faulty && (deaf || control[0] == 0)) usleep(100);
      queue->fault = faulty;
    } else {
      run(arguments->data(), 1, 0, -1);
    }
    delete numbers;
    delete arguments;
    --running;
    queue->busy = false;
  });
  return kSuccess;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** parameters, void**) {
  ENTER("cuLaunchKernel", true);
  if (y != 1 || z != 1 || ty != 1 || tz != 1) return kInvalid;
  return start(static_cast<Code*>(function), x, threads, shared, static_cast<Queue*>(stream), parameters);
}
int cuLaunchCooperativeKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty,
                              unsigned tz, unsigned shared, void* stream, void** parameters) {
  ENTER("cuLaunchCooperativeKernel", true);
  if (y != 1 || z != 1 || ty != 1 || tz != 1) return kInvalid;
  return start(static_cast<Code*>(function), x, threads, shared, static_cast<Queue*>(stream), parameters);
}

__attribute__((destructor)) void say_what_is_left() {
  for (int i = 0; i < 100 && running; ++i) usleep(10'000);  // as a process does, which would wait for ever
  fprintf(stderr, "left: %zu %zu %d %d %d, running: %d\n", card_memory.size(), pinned.size(), modules.load(),
          streams.load(), retained.load(), running.load());
}
}
