// The C ABI of models that stay on a GPU.
#include "rta_gpu.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "model/answered.h"
#include "model/arguments.h"
#include "model/open_model.h"
#include "own_build.h"
#include "realtime/columns.h"
#include "realtime/rta_mailbox.h"
#include "room.h"

using namespace rta;
using namespace rta::gpu;

namespace {

constexpr uint64_t kRunning = 1;
constexpr int kAbortAt = 0, kStateAt = 1;
constexpr uint32_t kReset = 1, kSave = 2, kLoad = 4, kSpoiled = 8, kRenew = 16,
                   kOfSecond = 32;  // commands of a message
constexpr int64_t kSecond = 1'000'000'000, kStart = 30 * kSecond, kEnd = 5 * kSecond;

void need_gpu(const rta_gpu* gpu) {
  if (!gpu) refuse(RTA_BAD_ARGUMENT, "the model is NULL: rta_gpu_open failed, or was not called");
}

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

// Whether it came true in time; looks every half a millisecond.
template <class F>
bool wait_until(int64_t limit, F f) {
  const timespec pause{0, 500'000};
  for (const int64_t end = now() + limit; !f(); nanosleep(&pause, nullptr))
    if (now() > end) return false;
  return true;
}

}  // namespace

struct rta_gpu {
  rta_gpu(const Bytes& bytes, const unsigned char* key, int device);
  ~rta_gpu();
  rta_gpu(const rta_gpu&) = delete;
  void start();
  void step(const float* x, float* y, int64_t timeout_ns);
  void message(uint32_t order);  // that is no time step
  void save(float* to);
  void load(const float* from);
  void swap(const Bytes& bytes, const unsigned char* key);
  bool end();  // whether it did
  [[noreturn]] void fail(std::string fault, const char* what);

  std::string name, failed;  // failed: why it does not run again
  Stored stored;
  std::unique_ptr<Seat> seat;
  std::unique_ptr<Resident> resident;
  int streams;
  std::vector<float> scaled;         // x with its columns multiplied
  bool second = false;               // the set of weights that it computes with
  Digest code;                       // of the kernel
  uint32_t number = 0, command = 0;  // of the last message; of the next one
};

namespace {

// What a file has, all of it looked at.
struct Read {
  std::vector<Stored> all;
  const uint8_t* section;
  int streams;
};

Read read(const Bytes& bytes) {
  const Artifact from(bytes, RTA_LARGE);  // no plan is made, so it asks for no memory
  Read found;
  found.all = stored_in(bytes, &found.section);
  found.streams = static_cast<int>(std::min<int64_t>(from.streams, 2));
  const bool single = from.inputs.size() == 1 && from.outputs.size() == 1 && from.inputs[0].dtype == RTA_FLOAT32 &&
                      from.outputs[0].dtype == RTA_FLOAT32 && found.streams < 2;
  for (const Stored& s : found.all)
    if (!single || from.inputs[0].sample_elements != s.inputs || from.outputs[0].sample_elements != s.outputs)
      refuse(RTA_BAD_FORMAT, "%s: %lld inputs and %lld outputs, which are not the model's", s.name,
             static_cast<long long>(s.inputs), static_cast<long long>(s.outputs));
  return found;
}

void check_key(const Bytes& bytes, const unsigned char* key) {
  if (!key) return;
  if (!found_verify()) refuse(RTA_OTHER, "libsodium is not installed, so no signature can be checked");
  check_signed(bytes, "the file", key, found_verify());
}

// Whether two launches differ in weights alone.
bool same_but_weights(const Stored& a, const Stored& b) {
  const auto sizes = [](const Stored& s) {
    return std::array<int64_t, 9>{s.capability, s.blocks, s.threads, s.shared_bytes, s.cluster,
                                  s.commands,   s.inputs, s.outputs, s.states};
  };
  const auto same = [](const Parameter& p, const Parameter& q) {
    const bool weights = Stored::is_weights(p);
    return p.kind == q.kind && p.room == q.room && p.bytes == q.bytes && (weights || (!p.bytes && p.value == q.value));
  };
  return sizes(a) == sizes(b) && a.factors == b.factors &&
         std::equal(a.parameters.begin(), a.parameters.end(), b.parameters.begin(), b.parameters.end(), same);
}

std::string cards_of(const std::vector<Stored>& all) {
  std::string text;
  for (const Stored& s : all) {
    const std::string card = "sm_" + std::to_string(s.capability);
    if (text.find(card) == std::string::npos) text += (text.empty() ? "" : ", ") + card;
  }
  return text;
}

}  // namespace

rta_gpu::rta_gpu(const Bytes& bytes, const unsigned char* key, int device) {
  auto [all, section, streams_] = read(bytes);
  streams = streams_;
  check_key(bytes, key);
  const std::lock_guard<std::mutex> alone(turn());
  const Card card = card_of(device);
  if (any_runs())
    refuse(RTA_NO_ROOM, "a persistent kernel runs, and loading code would wait for its end: open all models before");
  // The code for this very card where there is some, else the next older; of one card's, the order of the file.
  const auto can = [&card](const Stored& s) {
    return fits(s.capability, card.capability) && static_cast<int>(s.shared_bytes) <= card.shared_bytes &&
           (!s.cooperative || card.cooperative);
  };
  int best = 0;
  for (const Stored& s : all)
    if (can(s)) best = std::max(best, s.capability);
  std::string why;
  for (const Stored& s : all) {
    if (s.capability != best || !can(s)) continue;
    const OwnBuild own(s);
    if (!own.missing().empty()) {
      why = "; " + own.missing();
      continue;
    }
    auto sat = std::make_unique<Seat>(card, s.blocks, s.name);
    auto made = std::make_unique<Resident>(card, own.launch(), section);
    if (made->clusters() <= static_cast<int>(s.cluster ? taken(card) - s.blocks : 0)) {
      why = std::string("; the device has no room for ") + s.name;
      continue;
    }
    name = s.name;
    stored = s;
    stored.name = name.c_str();
    stored.code = nullptr;
    scaled.resize(stored.factors.size());
    code = sha256(s.code, s.code_bytes);
    seat = std::move(sat);
    resident = std::move(made);
    return;
  }
  refuse(RTA_NO_KERNEL, "the file has kernels for %s, and this device is sm_%d%s", cards_of(all).c_str(),
         card.capability, why.c_str());
}

rta_gpu::~rta_gpu() {
  const bool ended = end();
  const std::lock_guard<std::mutex> alone(turn());
  if (!ended) {
    leave_alone(std::move(resident), std::move(seat));
    return;
  }
  seat.reset();
  give_back(std::move(resident));
}

void rta_gpu::start() {
  if (!failed.empty()) refuse(RTA_NO_ANSWER, "%s", failed.c_str());
  if (seat->running()) return;
  const std::lock_guard<std::mutex> alone(turn());
  number = 0;
  resident->launch(second);
  seat->runs(resident->control + kAbortAt);
  const auto state = [this] { return __atomic_load_n(resident->control + kStateAt, __ATOMIC_ACQUIRE); };
  const bool attempted = attempt([&] { wait_until(kStart, [&] { return state() != 0 || resident->finished(); }); });
  if (attempted && state() == kRunning) return;
  fail(attempted ? "" : last_error().c_str(), " did not start");
}

void rta_gpu::step(const float* x, float* y, int64_t timeout_ns) {
  if (!seat->running()) start();
  const int64_t words = stored.request_words(), slot = ++number & 1;
  uint64_t* to = resident->requests + slot * words;
  uint32_t unfit = 0;
  if (!stored.factors.empty()) {
    scale_columns(x, stored.factors.data(), stored.inputs, scaled.data());
    x = scaled.data();
  }
  if (!stored.rounded)
    rta_mailbox_send(to, reinterpret_cast<const uint32_t*>(x), stored.inputs, number);
  else if (!rta_mailbox_send_int8(to, x, stored.inputs, stored.inverse, stored.zero_point, number))
    unfit = kSpoiled;
  if (stored.commands) rta_mailbox_put(to + stored.x_words(), command | unfit, number);
  const auto status = rta_mailbox_wait(resident->replies + slot * stored.outputs, reinterpret_cast<uint32_t*>(y),
                                       stored.outputs, number, timeout_ns);
  if (status == RTA_MAILBOX_DONE) {
    if (command & kRenew) second = command & kOfSecond;
    command = 0;
    return;
  }
  const bool attempted = attempt([this] { resident->finished(); });
  fail(attempted ? "" : last_error().c_str(), " gave no answer");
}

void rta_gpu::message(uint32_t order) {
  const std::vector<float> x(static_cast<size_t>(stored.inputs));
  std::vector<float> y(static_cast<size_t>(stored.outputs));
  const uint32_t waiting = command;
  command = order | (waiting & (kRenew | kOfSecond));  // which hold from there on
  step(x.data(), y.data(), kSecond);
  command = waiting & kReset;
}

void rta_gpu::save(float* to) {
  const int64_t words = stored.states;
  if (command & kReset) {  // they are what they were until the next step, and zero from there on
    std::fill_n(to, words, 0.0f);
    return;
  }
  message(kSave);
  if (rta_mailbox_wait(resident->past, reinterpret_cast<uint32_t*>(to), words, number, kStart) != RTA_MAILBOX_DONE)
    fail("", " did not give its states");
}

void rta_gpu::load(const float* from) {
  if (!seat->running()) start();
  const int64_t words = stored.states;
  const bool finite = std::all_of(from, from + words, [](float value) { return std::isfinite(value); });
  rta_mailbox_send(resident->past, reinterpret_cast<const uint32_t*>(from), words, number + 1);
  command &= ~kReset;
  message(kLoad | (finite ? 0 : kSpoiled));
}

void rta_gpu::swap(const Bytes& bytes, const unsigned char* key) {
  if (!failed.empty()) refuse(RTA_NO_ANSWER, "%s", failed.c_str());
  const Read from = read(bytes);
  check_key(bytes, key);
  for (const Stored& s : from.all) {
    if (!stored.commands || !same_but_weights(s, stored) || !(sha256(s.code, s.code_bytes) == code)) continue;
    command &= ~(kRenew | kOfSecond);  // the kernel goes on with the set that it has
    resident->write(!second, s, from.section);
    command |= kRenew | (second ? 0 : kOfSecond);
    return;
  }
  refuse(RTA_NO_FIT, "no kernel of the file is %s with these sizes and static scales", name.c_str());
}

void rta_gpu::fail(std::string fault, const char* what) {
  failed = name + what + (fault.empty() ? "" : ": ") + fault;
  if (!end()) failed += "; it did not end when it was told to, and keeps its part of the device";
  refuse(RTA_NO_ANSWER, "%s", failed.c_str());
}

bool rta_gpu::end() {
  if (!seat->running()) return true;
  __atomic_store_n(resident->control + kAbortAt, kAbort, __ATOMIC_RELEASE);
  bool ended = false;
  attempt([&] { ended = wait_until(kEnd, [this] { return resident->finished(); }); });
  if (ended) seat->has_ended();
  return ended;
}

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_gpu* rta_gpu_open(const char* path, const unsigned char* key, int device) {
  return answered(static_cast<rta_gpu*>(nullptr), [&] {
    need(path, "the path");
    return new rta_gpu(Bytes(path), key, device);
  });
}
RTA_API rta_gpu* rta_gpu_from_memory(const void* data, size_t size, const unsigned char* key, int device) {
  return answered(static_cast<rta_gpu*>(nullptr), [&] { return new rta_gpu(bytes_at(data, size), key, device); });
}
RTA_API void rta_gpu_close(rta_gpu* gpu) { delete gpu; }

RTA_API int rta_gpu_start(rta_gpu* gpu) {
  return answered(-1, [&] {
    need_gpu(gpu);
    gpu->start();
    return 0;
  });
}
RTA_API int rta_gpu_step(rta_gpu* gpu, const float* x, float* y, int64_t timeout_ns) {
  return answered(-1, [&] {
    need_gpu(gpu);
    need(x, "x");
    need(y, "y");
    gpu->step(x, y, timeout_ns);
    return 0;
  });
}
RTA_API void rta_gpu_reset(rta_gpu* gpu) {
  if (gpu) gpu->command |= gpu->stored.commands ? kReset : 0;
}

RTA_API int rta_gpu_swap(rta_gpu* gpu, const char* path, const unsigned char* key) {
  return answered(-1, [&] {
    need_gpu(gpu);
    need(path, "the path");
    gpu->swap(Bytes(path), key);
    return 0;
  });
}

RTA_API size_t rta_gpu_state_bytes(const rta_gpu* gpu) {
  return gpu ? sizeof(float) * static_cast<size_t>(gpu->stored.states) : 0;
}
RTA_API int rta_gpu_save_state(rta_gpu* gpu, void* to) {
  return answered(-1, [&] {
    need_gpu(gpu);
    if (gpu->stored.states) need(to, "the room for the states");
    if (gpu->stored.states) gpu->save(static_cast<float*>(to));
    return 0;
  });
}
RTA_API int rta_gpu_load_state(rta_gpu* gpu, const void* from) {
  return answered(-1, [&] {
    need_gpu(gpu);
    if (gpu->stored.states) need(from, "the address of the states");
    if (gpu->stored.states) gpu->load(static_cast<const float*>(from));
    return 0;
  });
}

RTA_API void rta_gpu_describe(const rta_gpu* gpu, rta_gpu_about* about) {
  if (about) *about = {};
  if (!gpu || !about) return;
  const Stored& s = gpu->stored;
  *about = {s.inputs, s.outputs, static_cast<int>(s.blocks), s.capability, gpu->streams, gpu->name.c_str()};
}

RTA_API int rta_gpu_code(const char* folder) {
  return answered(-1, [&] {
    const std::lock_guard<std::mutex> alone(turn());
    OwnBuild::is_in(folder);
    return 0;
  });
}
RTA_API int rta_gpu_stored(const void* data, size_t size, int* capabilities, int most) {
  return answered(-1, [&] {
    const Bytes bytes = bytes_at(data, size);
    if (most > 0) need(capabilities, "the room for capabilities");
    const std::vector<Stored> all = read(bytes).all;
    for (int i = 0; i < static_cast<int>(all.size()) && i < most; ++i)
      capabilities[i] = all[static_cast<size_t>(i)].capability;
    return static_cast<int>(all.size());
  });
}
}
