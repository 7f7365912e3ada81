// The C ABI of endpoints (rta_endpoint.h): a frame is checked, the model runs, its answer is written.
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "remote/peers.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace {

// An end whose tensors are kept.
struct End {
  explicit End(const rta_frame_end& given) : tensors(given.tensors, given.tensors + given.count), end(given) {
    end.tensors = tensors.data();
    for (const rta_frame_tensor& t : tensors) data.push_back(t.data);
    bytes = rta_frame_bytes(tensors.data(), given.count);
  }
  std::vector<rta_frame_tensor> tensors;
  std::vector<void*> data;
  rta_frame_end end;
  size_t bytes;
};

size_t memory_bytes(const rta_frame_tensor& t) {
  size_t bytes = t.wire == RTA_WIRE_INT8 ? 1 : t.wire == RTA_WIRE_INT64 ? 8 : 4;
  for (int i = 0; i < t.rank; ++i) bytes *= t.dims[i];
  return bytes;
}

}  // namespace

struct rta_endpoint {
  explicit rta_endpoint(const rta_endpoint_config& config)
      : in(config.in), out(config.out), step(config.step), self(config.self), peers(config.most_peers) {}
  End in, out;
  rta_step_fn step;
  void* self;
  std::mutex mutex;
  rta_remote::Peers peers;
  std::atomic<int64_t> answered{0}, failed{0}, known{0}, refused[16]{};
};

RTA_API rta_endpoint* rta_endpoint_create(const rta_endpoint_config* config) {
  const auto sendable = [](const rta_frame_end& end) {
    return end.count > 0 && end.count <= RTA_FRAME_TENSORS && end.tensors && rta_frame_bytes(end.tensors, end.count);
  };
  if (!config || !sendable(config->in) || !sendable(config->out) || !config->step || config->most_peers < 1)
    return nullptr;
  return new (std::nothrow) rta_endpoint(*config);
}

RTA_API void rta_endpoint_destroy(rta_endpoint* endpoint) { delete endpoint; }

RTA_API size_t rta_endpoint_bytes(const rta_endpoint* endpoint, int answers) {
  if (!endpoint) return 0;
  return answers ? endpoint->out.bytes : endpoint->in.bytes;
}

RTA_API int64_t rta_endpoint_answer(rta_endpoint* e, const void* frame, size_t size, const void* peer,
                                    size_t peer_bytes, void* out, size_t capacity) {
  if (!e) return RTA_FRAME_MODEL;
  if (peer_bytes > RTA_ENDPOINT_PEER_BYTES || capacity < e->out.bytes) return RTA_FRAME_OVERSIZE;
  rta_remote::Peer who;
  if (peer_bytes) std::memcpy(who.bytes, peer, peer_bytes);
  who.size = peer_bytes;
  const std::lock_guard<std::mutex> lock(e->mutex);
  rta_frame_guard fresh{};
  rta_frame_guard* const guard = e->peers.find(who);
  rta_frame_head head{};
  const int code = rta_frame_read(frame, size, &e->in.end, RTA_FRAME_REQUEST, 0, guard ? guard : &fresh, &head);
  if (code != RTA_FRAME_OK) {
    e->refused[-code & 15].fetch_add(1, std::memory_order_relaxed);
    return code;
  }
  if (!guard) {
    e->peers.add(who, fresh);
    e->known.store(static_cast<int64_t>(e->peers.size()), std::memory_order_relaxed);
  }
  head.kind = RTA_FRAME_ANSWER;
  head.status = 0;
  if (e->step(e->self, e->in.data.data(), e->out.data.data()) == 0) {
    e->answered.fetch_add(1, std::memory_order_relaxed);
  } else {
    // What is there may be half of this answer, or the last one to somebody else.
    for (const rta_frame_tensor& t : e->out.tensors) std::memset(t.data, 0, memory_bytes(t));
    head.status = RTA_ENDPOINT_REFUSED;
    e->failed.fetch_add(1, std::memory_order_relaxed);
  }
  return rta_frame_write(out, capacity, &head, e->out.tensors.data(), e->out.end.count, e->out.end.key);
}

RTA_API void rta_endpoint_statistics(const rta_endpoint* e, rta_endpoint_stats* stats) {
  *stats = {};
  if (!e) return;
  stats->answered = e->answered.load(std::memory_order_relaxed);
  stats->failed = e->failed.load(std::memory_order_relaxed);
  stats->peers = e->known.load(std::memory_order_relaxed);
  for (int i = 0; i < 16; ++i) stats->refused[i] = e->refused[i].load(std::memory_order_relaxed);
}
