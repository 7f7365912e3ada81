#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace rta::gpu {
namespace {

constexpr unsigned kStaticShared = 48u << 10;  // that a function may use without being told to
constexpr unsigned kPortableCluster = 8;
constexpr int kScratch = 2;  // pointers behind the parameters, to memory that these kernels do not use

int attribute(Attribute which, Device device) {
  int value = 0;
  check(driver().attribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

}  // namespace

Card card_of(int number) {
  const Driver& d = driver();
  int count = 0;
  check(d.count(&count), "cuDeviceGetCount");
  if (number < 0 || number >= count) refuse(RTA_NO_DEVICE, "device %d of %d", number, count);
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  if (blocking && *blocking && std::strcmp(blocking, "0") != 0)
    refuse(RTA_NO_DEVICE, "with CUDA_LAUNCH_BLOCKING every launch waits for its kernel to end");
  Card card{};
  check(d.device(&card.device, number), "cuDeviceGet");
  if (attribute(kTimeout, card.device))
    refuse(RTA_NO_DEVICE, "device %d drives a display, and the driver ends kernels that run for seconds", number);
  if (!attribute(kMapsHostMemory, card.device))
    refuse(RTA_NO_DEVICE, "device %d does not see the memory of the host", number);
  card.capability = 10 * attribute(kMajor, card.device) + attribute(kMinor, card.device);
  card.multiprocessors = attribute(kMultiprocessors, card.device);
  card.shared_bytes = attribute(kSharedOptIn, card.device);
  card.cooperative = attribute(kCooperative, card.device) != 0;
  return card;
}

// Code for 8.0 runs on 8.6, 8.7 and 8.9, too; from 9.0 on it is compiled for one architecture alone.
bool fits(int code, int card) { return code == card || (code / 10 == 8 && card / 10 == 8 && code < card); }

Current::Current(Context context) { check(driver().push(context), "cuCtxPushCurrent"); }
Current::~Current() {
  Context before;
  driver().pop(&before);
}

Resident::Resident(const Card& card, const Stored& stored, const uint8_t* section) : card_(card), stored_(stored) {
  const Driver& d = driver();
  check(d.retain(&context_, card.device), "cuDevicePrimaryCtxRetain");
  try {
    const Current current(context_);
    load(stored);
    check(d.new_stream(&stream_, kNonBlocking), "cuStreamCreate");
    check(d.new_stream(&copying_, kNonBlocking), "cuStreamCreate");
    for (const Parameter& p : stored.parameters) {
      uint64_t value = p.value;
      if (p.kind < Kind::kMemory) value = shared_memory(p.kind, static_cast<size_t>(stored.room(p)));
      if (p.kind == Kind::kMemory) value = own_memory(p, section);
      values_.push_back(value);
    }
    for (int i = 0; i < kScratch; ++i) values_.push_back(0);
    size_t most = 0;
    for (const Memory& memory : zeroed_) most = std::max(most, memory.bytes);
    if (most) std::memset(zeros_ = pinned(most), 0, most);
    check(d.synchronize(stream_), "cuStreamSynchronize");  // the weights are there, and the file may go
    stored_.code = nullptr;
    stored_.entry = stored_.name = nullptr;
  } catch (...) {
    give_back();
    throw;
  }
}

Resident::~Resident() { give_back(); }

void Resident::give_back() {
  const Driver& d = driver();
  if (d.push(context_) == kSuccess) {
    for (Address at : owned_) d.free(at);
    for (void* at : pinned_) d.free_host(at);
    if (stream_) d.destroy(stream_);
    if (copying_) d.destroy(copying_);
    if (module_) d.unload(module_);
    Context before;
    d.pop(&before);
  }
  d.release(card_.device);
}

void Resident::load(const Stored& stored) {
  const Driver& d = driver();
  check(d.load(&module_, stored.code), "cuModuleLoadData");
  check(d.function(&function_, module_, stored.entry), "cuModuleGetFunction");
  check_parameters();
  if (d.load_function) check(d.load_function(function_), "cuFuncLoad");
  if (stored.shared_bytes > kStaticShared)
    check(d.set(function_, kDynamicShared, static_cast<int>(stored.shared_bytes)), "cuFuncSetAttribute");
  if (stored.cluster > kPortableCluster) d.set(function_, kLargeClusters, 1);  // `clusters` says whether it can
}

// The function's own, where the driver tells: numbers of another width would be read as others.
void Resident::check_parameters() const {
  const Driver& d = driver();
  if (!d.parameter) return;
  const size_t own = stored_.parameters.size();
  size_t at, size;
  for (size_t i = 0; i < own + kScratch; ++i) {
    const size_t wanted = i < own && is_word(stored_.parameters[i].kind) ? 4 : 8;
    if (d.parameter(function_, i, &at, &size) != kSuccess || size != wanted)
      refuse(RTA_BAD_FORMAT, "%s: parameter %zu is not that of its code", stored_.name, i);
  }
  if (d.parameter(function_, own + kScratch, &at, &size) == kSuccess)
    refuse(RTA_BAD_FORMAT, "%s: its code has more than %zu parameters", stored_.name, own);
}

void* Resident::pinned(size_t bytes) {
  void* at = nullptr;
  check(driver().allocate_host(&at, bytes, kMapped), "cuMemHostAlloc");
  pinned_.push_back(at);
  return at;
}

uint64_t Resident::shared_memory(Kind kind, size_t bytes) {
  void* at = pinned(bytes);
  mailbox_.emplace_back(at, bytes);
  auto* words = static_cast<uint64_t*>(at);
  if (kind == Kind::kRequests) requests = words;
  if (kind == Kind::kReplies) replies = words;
  if (kind == Kind::kControl) control = words;
  if (kind == Kind::kPast) past = words;
  Address seen = 0;
  check(driver().seen_by_device(&seen, at, 0), "cuMemHostGetDevicePointer");
  return seen;
}

uint64_t Resident::own_memory(const Parameter& p, const uint8_t* section) {
  const Driver& d = driver();
  const auto room = static_cast<size_t>(p.room), bytes = static_cast<size_t>(p.bytes);
  Address at = 0;
  check(d.allocate(&at, room), "cuMemAlloc");
  owned_.push_back(at);
  if (!bytes) zeroed_.push_back({at, room});
  if (bytes) check(d.copy(at, section + p.value, bytes, stream_), "cuMemcpyHtoDAsync");
  if (Stored::is_weights(p)) weights_.push_back({at, bytes, pinned(bytes)});  // of the second set nobody reads yet
  return at;
}

void Resident::write(bool second, const Stored& from, const uint8_t* section) {
  const Driver& d = driver();
  const Current current(context_);
  auto to = weights_.begin();
  for (const Parameter& p : from.parameters) {
    if (!Stored::is_weights(p)) continue;
    std::memcpy(to->staging, section + p.value, to->bytes);
    check(d.copy(to->at + (second ? to->bytes : 0), to->staging, to->bytes, copying_), "cuMemcpyHtoDAsync");
    ++to;
  }
  check(d.synchronize(copying_), "cuStreamSynchronize");
}

void Resident::launch(bool second) {
  const Driver& d = driver();
  const Current current(context_);
  for (auto [at, bytes] : mailbox_) std::memset(at, 0, bytes);
  // Copies, not a kernel of the driver's, whose code might have to be loaded.
  for (const Memory& memory : zeroed_) check(d.copy(memory.at, zeros_, memory.bytes, stream_), "cuMemcpyHtoDAsync");
  for (size_t i = 0; i < stored_.parameters.size(); ++i)
    if (stored_.parameters[i].kind == Kind::kSecond) values_[i] = second;
  std::vector<void*> arguments;
  for (uint64_t& value : values_) arguments.push_back(&value);
  const unsigned blocks = stored_.blocks, threads = stored_.threads, shared = stored_.shared_bytes;
  if (stored_.cooperative)
    check(d.launch_cooperative(function_, blocks, 1, 1, threads, 1, 1, shared, stream_, arguments.data()),
          "cuLaunchCooperativeKernel");
  else  // a cluster's size is in its code
    check(d.launch(function_, blocks, 1, 1, threads, 1, 1, shared, stream_, arguments.data(), nullptr),
          "cuLaunchKernel");
}

bool Resident::finished() const {
  const Current current(context_);
  const Status status = driver().query(stream_);
  if (status == kNotReady) return false;
  check(status, "the kernel");
  return true;
}

int Resident::clusters() const {
  if (!stored_.cluster) return 1;
  const Driver& d = driver();
  if (!d.clusters) return 0;
  const Current current(context_);
  const LaunchConfig config{
      {stored_.cluster, 1, 1}, {stored_.threads, 1, 1}, stored_.shared_bytes, nullptr, nullptr, 0};
  int count = 0;
  const Status status = d.clusters(&count, function_, &config);
  if (status == kInvalidClusterSize) return 0;
  check(status, "cuOccupancyMaxActiveClusters");
  return count;
}

}  // namespace rta::gpu
