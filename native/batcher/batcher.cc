// Making, starting and stopping a batcher.
#include "batcher.h"

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "realtime/latest_memory.h"
#include "realtime/loop.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace rta_serve {
namespace {

thread_local char error_text[512] = "";

constexpr int kMeasured = 5;  // calls of a size before the start

}  // namespace

int batcher_error(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error_text, sizeof error_text, format, args);
  va_end(args);
  return -1;
}

int no_batcher() { return batcher_error("the batcher is NULL; rta_batcher_create said why when it was not made"); }

namespace {

bool settings_fit(const rta_batcher_config& c) {
  if (!c.plan || c.in_bytes == 0 || c.out_bytes == 0)
    return batcher_error("no plan of one input and one output"), false;
  if (c.streams < 1 || c.streams > INT32_MAX) return batcher_error("a plan without streams"), false;
  if (c.deadline_ns < 1 || c.deadline_ns > 3'600'000'000'000) return batcher_error("a deadline up to an hour"), false;
  if (c.max_batch < 1 || c.max_batch > c.streams)
    return batcher_error("max_batch of 1 to the number of streams"), false;
  if (c.tickets < 0 || c.tickets > INT32_MAX - 1) return batcher_error("tickets of 0 to 2^31 - 2"), false;
  if (c.results < 0 || c.results > RTA_MOST_RESULTS)
    return batcher_error("results of 0 to %d", RTA_MOST_RESULTS), false;
  if (c.spin_ns < 0 || c.spin_ns > 1'000'000'000) return batcher_error("a spin of 0 to a second"), false;
  if (c.workers && (c.workers->manual != (c.manual != 0) || c.cpu >= 0))
    return batcher_error("workers with a clock of another kind, or a core beside them"), false;
  if (c.late != RTA_LATE_ANSWER && c.late != RTA_LATE_DROP) return batcher_error("an unknown late"), false;
  return true;
}

void make_room(rta_batcher* b) {
  const rta_batcher_config& c = b->config;
  const auto streams = static_cast<size_t>(c.streams), most = static_cast<size_t>(c.max_batch);
  b->stride = (sizeof(Slot) + c.in_bytes + 15) / 16 * 16;
  b->slots = rta_realtime::buffer(b->stride * streams);
  for (int64_t s = 0; s < c.streams; ++s) new (&b->slot(s)) Slot();
  b->words = (c.streams + 63) / 64;
  b->marked = std::make_unique<std::atomic<uint64_t>[]>(static_cast<size_t>(b->words));
  b->first = std::make_unique<std::atomic<int64_t>[]>(streams);
  b->ours.resize(static_cast<size_t>(b->words));
  b->due.resize(streams);
  b->order.reserve(streams);
  for (auto* each : {&b->list, &b->stamps, &b->put_at}) each->reserve(most);
  b->ticket_of.reserve(most);
  b->rows.resize(most * c.in_bytes);
  if (c.tickets) {
    b->tickets = std::make_unique<Ticket[]>(static_cast<size_t>(c.tickets));
    b->answers = std::make_unique<char[]>(static_cast<size_t>(c.tickets) * c.out_bytes);
    for (int64_t t = c.tickets; t-- > 0;) b->free_ticket(static_cast<int32_t>(t));
  }
  size_t places = 1;  // a power of two, so that counts that begin anew go on with the next place
  while (!c.tickets && places < static_cast<size_t>(c.results)) places *= 2;
  b->results.resize(places);
  for (Results& r : b->results) {
    r.streams.resize(most);
    r.stamps.resize(most);
    r.status.resize(most);
    r.y.reset(new char[most * c.out_bytes]);
  }
}

bool forked(const rta_batcher* b) { return b->born != rta_realtime::generation.load(std::memory_order_relaxed); }

}  // namespace
}  // namespace rta_serve

using namespace rta_serve;

int64_t rta_batcher::now() const {
  return config.manual ? manual_now.load(std::memory_order_relaxed) : rta_latest_now_ns();
}

// Whoever waits for it may destroy it as soon as it sees `ended`: what follows is an address to the system.
void rta_batcher::end() {
  std::atomic<uint32_t>&ended_word = ended, &made_word = made;
  ended.store(1);
  rta::os::wake_all(ended_word);
  rta::os::wake_all(made_word);
}

// Batches of a few sizes, of zeros; the streams are as before afterwards.
bool rta_batcher::measure() {
  std::vector<char> past(rta_plan_state_bytes(config.plan));
  rta_plan_save_state(config.plan, past.data());
  std::fill(rows.begin(), rows.end(), 0);
  const void* in = rows.data();
  void* out = results[0].y.get();
  for (int64_t s = 0; s < config.max_batch; ++s) list.push_back(s);
  bool fine = true;
  for (int turn = 0; turn < kMeasured && fine; ++turn)
    for (const int64_t n : {config.max_batch, int64_t{1}, (config.max_batch + 1) / 2}) {
      const int64_t began = rta_latest_now_ns();
      fine = rta_plan_run_some(config.plan, &in, &out, n, list.data()) == 0;
      if (!fine) break;
      if (turn > 0) cost.learn(static_cast<double>(n), static_cast<double>(rta_latest_now_ns() - began));
    }
  cost.widen(config.spin_ns == 0 ? kWakeNs : kColdNs);
  list.clear();
  if (!fine) batcher_error("the plan refuses a batch of zeros: %s", rta_error());
  if (rta_plan_load_state(config.plan, past.data()) != 0) return batcher_error("%s", rta_error()), false;
  return fine;
}

RTA_API const char* rta_batcher_error_text(void) { return error_text; }
RTA_API const char* rta_batcher_refused(const rta_batcher* b) {
  return b && b->own ? rta_workers_refused(b->own.get()) : "";
}

RTA_API rta_batcher* rta_batcher_create(const rta_batcher_config* config) {
  if (!config) return batcher_error("the config is NULL"), nullptr;
  if (!settings_fit(*config)) return nullptr;
  try {
    auto b = std::make_unique<rta_batcher>();
    b->config = *config;
    if (config->results == 0) b->config.results = kResults;
    b->present.store(config->streams);
    make_room(b.get());
    return b.release();
  } catch (const std::bad_alloc&) {
    return batcher_error("no memory for %lld streams", static_cast<long long>(config->streams)), nullptr;
  }
}

RTA_API int rta_batcher_start(rta_batcher* b) {
  if (!b) return no_batcher();
  if (b->started) return batcher_error("a batcher starts once; make another");
  if (!b->config.manual && !b->measure()) return -1;
  b->started = true;  // a start that fails is one too
  b->born = rta_realtime::generation.load(std::memory_order_relaxed);
  b->workers = b->config.workers;
  if (!b->workers && !b->config.manual) {
    const rta_workers_config one = {1, &b->config.cpu, 0, 0};
    b->own.reset(rta_workers_create(&one));
    if (!b->own) return -1;
    b->workers = b->own.get();
  }
  if (b->workers) {
    if (b->workers->ending.load()) return batcher_error("workers that have been stopped");
    b->workers->join(b);
  }
  b->open.store(true);
  return 0;
}

RTA_API void rta_batcher_stop(rta_batcher* b) {
  if (!b) return;
  b->open.store(false);
  b->stopping.store(true);
  b->wake();
}

RTA_API int rta_batcher_wait_stopped(rta_batcher* b, int64_t timeout_ns) {
  if (!b) return no_batcher();
  const int64_t until = rta_latest_now_ns() + timeout_ns;
  const bool served = b->workers && !b->workers->manual && !forked(b);
  while (served && b->ended.load() == 0) {
    if (rta_latest_now_ns() >= until) return 0;
    rta::os::wait_at(b->ended, 0, until);
  }
  if (b->own) b->own->end();
  if (b->started && !forked(b)) b->start_anew();
  return 1;
}

RTA_API void rta_batcher_destroy(rta_batcher* b) {
  if (!b) return;
  b->abandoned.store(true);
  rta_batcher_stop(b);
  while (!rta_batcher_wait_stopped(b, 1'000'000'000)) {
  }
  if (b->workers && b->workers->manual) b->workers->forget(b);
  delete b;
}

RTA_API void rta_batcher_statistics(const rta_batcher* b, rta_batcher_stats* s) {
  if (!b) {
    *s = {};
    return;
  }
  // Word by word, each as it was at some moment of this call.
  static_assert(sizeof *s % sizeof(int64_t) == 0);
  const auto* from = reinterpret_cast<const int64_t*>(&b->stats);
  auto* to = reinterpret_cast<int64_t*>(s);
  for (size_t i = 0; i < sizeof *s / sizeof *to; ++i) to[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
  s->put = b->put.load();
  s->full = b->full.load();
  s->replaced = b->replaced.load();
  s->cost_a_ns = b->cost.a();
  s->cost_b_ns = b->cost.b();
  s->cost_margin_ns = b->cost.margin();
}
