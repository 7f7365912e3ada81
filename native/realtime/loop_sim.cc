#include "rta_loop_sim.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace {

struct Arrival {
  int64_t at, stamp, number;
  bool operator<(const Arrival& other) const { return at > other.at || (at == other.at && number > other.number); }
};

constexpr int64_t kBegin = 1'000'000'000;  // the clock's first time: a stamp of 0 means "now" elsewhere

}  // namespace

namespace {

uint64_t splitmix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
bool chance(uint64_t& random, double p) { return static_cast<double>(splitmix(random) >> 11) * 0x1p-53 < p; }
int64_t up_to(uint64_t& random, int64_t n) {
  return n > 0 ? static_cast<int64_t>(splitmix(random) % static_cast<uint64_t>(n + 1)) : 0;
}

// What puts into one slot.
struct Producer {
  rta_sim_config config;
  rta_latest* slot;
  rta_sim_counts* counts;
  uint64_t own, *random;  // the first one draws from the world's numbers
  int64_t produced_to = kBegin, gap_until = 0, clock_offset = 0, produced = 0, newest = -1;
  bool burst = false;
  std::vector<Arrival> coming;
  std::vector<char> value;

  void schedule(int64_t at, int64_t stamp, int64_t number) {
    coming.push_back({at, stamp, number});
    std::push_heap(coming.begin(), coming.end());
  }

  void produce() {
    const int64_t t = produced_to, number = ++produced;
    ++counts->produced;
    produced_to += config.produce_ns;
    if (chance(*random, config.p_clock)) {
      clock_offset = clock_offset ? 0 : config.clock_ns;
      ++counts->clock_steps;
    }
    if (t >= gap_until && chance(*random, config.p_gap)) {
      gap_until = t + config.gap_ns / 2 + up_to(*random, config.gap_ns);
      burst = chance(*random, config.p_burst);
      ++counts->gaps;
      counts->bursts += burst;
    }
    const int64_t stamp = t + clock_offset;
    if (t < gap_until) {
      if (burst)
        schedule(gap_until, stamp, number);
      else
        ++counts->lost;
      return;
    }
    const int64_t overtaken_by = chance(*random, config.p_reorder) ? 5 * config.produce_ns / 2 : 0;
    schedule(t + up_to(*random, config.delay_ns) + overtaken_by, stamp, number);
  }

  void arrive(const Arrival& a) {
    ++counts->arrived;
    std::memcpy(value.data(), &a.number, sizeof a.number);
    rta_latest_put_at(slot, value.data(), a.stamp, a.at);
    if (a.stamp > a.at)
      ++counts->future;
    else if (a.stamp < newest)
      ++counts->overtaken;
    else
      newest = a.stamp;
  }

  void advance(int64_t to) {
    for (;;) {
      const int64_t first = coming.empty() ? produced_to : std::min(produced_to, coming.front().at);
      if (first > to) break;
      if (!coming.empty() && coming.front().at < produced_to) {
        std::pop_heap(coming.begin(), coming.end());
        const Arrival a = coming.back();
        coming.pop_back();
        arrive(a);
      } else {
        produce();
      }
    }
  }

  void calm() {
    rta_sim_config& c = config;
    c.p_gap = c.p_burst = c.p_reorder = c.p_clock = c.p_stall = c.p_slow = 0;
    gap_until = clock_offset = 0;
  }
};

}  // namespace

struct rta_sim {
  rta_sim_config config;
  rta_sim_counts counts = {};
  uint64_t random;
  int64_t now = kBegin;
  std::vector<std::unique_ptr<Producer>> producers;
  rta_step_ports ports = {};

  // What a loop should do, by the simulation's own bookkeeping.
  int64_t period = 0, deadline = 0, max_age = 0;
  bool runs_when_stale = false, catches_up = false;
  int64_t cost = 0;

  bool chance(double p) { return ::chance(random, p); }
  int64_t up_to(int64_t n) { return ::up_to(random, n); }

  // The stamp of the oldest of the newest values; -1 where one has none.
  int64_t newest() const {
    int64_t oldest = INT64_MAX;
    for (const auto& p : producers) oldest = std::min(oldest, p->newest);
    return oldest;
  }

  void advance(int64_t to) {
    for (const auto& p : producers) p->advance(to);
    now = std::max(now, to);
  }

  int64_t cycle_at(int64_t point) {
    advance(std::max(now, point));
    int64_t late = up_to(config.wake_ns);
    if (chance(config.p_stall)) {
      late += config.stall_ns;
      ++counts.stalls;
    }
    advance(now + late);
    cost = config.step_ns;
    if (chance(config.p_slow)) cost = config.slow_ns, ++counts.slow_steps;
    if (!period) return now;
    ++counts.cycles;
    const int64_t oldest = newest();
    bool runs = oldest >= 0;
    counts.waiting += !runs;
    if (runs && now - oldest > max_age) {
      ++counts.stale;
      runs = runs_when_stale;
    } else {
      counts.fresh += runs;
    }
    const int64_t end = now + (runs ? cost : 0);
    counts.misses += end - point > deadline;
    if (!catches_up && end > point + period) counts.skipped += (end - point - 1) / period;
    return now;
  }
};

RTA_API rta_sim* rta_sim_create(const rta_sim_config* config, rta_latest* slot) {
  if (!config || !slot) return nullptr;
  auto* sim = new (std::nothrow) rta_sim();
  if (!sim) return nullptr;
  sim->config = *config;
  sim->random = config->seed;
  if (rta_sim_add(sim, config, slot) == 0) {
    sim->producers[0]->random = &sim->random;
    return sim;
  }
  delete sim;
  return nullptr;
}

RTA_API int rta_sim_add(rta_sim* sim, const rta_sim_config* config, rta_latest* slot) {
  if (!sim || !config || !slot) return -1;
  const size_t bytes = rta_latest_describe(slot)->payload_bytes;
  if (bytes < 8 || config->produce_ns < 1 || rta_latest_lend(slot, RTA_LATEST_WRITER) != 0) return -1;
  auto p = std::make_unique<Producer>();
  p->config = *config;
  p->slot = slot;
  p->counts = &sim->counts;
  p->own = config->seed;
  p->random = &p->own;
  p->value.resize(bytes);
  p->coming.reserve(1 << 16);
  sim->producers.push_back(std::move(p));
  return 0;
}

RTA_API void rta_sim_expect(rta_sim* sim, const rta_loop_config* loop) {
  if (!sim || !loop) return;
  sim->period = loop->period_ns;
  sim->deadline = loop->deadline_ns;
  sim->max_age = loop->max_age_ns;
  sim->runs_when_stale = loop->on_stale != RTA_STALE_HOLD;
  sim->catches_up = loop->on_miss == RTA_MISS_CATCH_UP;
}

RTA_API rta_loop_clock rta_sim_clock(rta_sim* sim) {
  if (!sim) return {};
  return {[](void* self) { return static_cast<rta_sim*>(self)->now; },
          [](void* self, int64_t ns) {
            auto* s = static_cast<rta_sim*>(self);
            const int64_t late = s->config.sleep_ns ? s->up_to(s->config.sleep_ns) : 0;
            s->advance(std::max(s->now, ns + late));
            return s->now;
          },
          [](void* self, int64_t ns) { return static_cast<rta_sim*>(self)->cycle_at(ns); }, sim};
}

RTA_API rta_step rta_sim_step(rta_sim* sim, size_t bytes) {
  rta_step_ports ports = {};
  ports.inputs = ports.outputs = 1;
  ports.in_bytes[0] = ports.out_bytes[0] = bytes;
  return rta_sim_step_ports(sim, &ports);
}

RTA_API rta_step rta_sim_step_ports(rta_sim* sim, const rta_step_ports* ports) {
  rta_step step = {};
  if (!sim || !ports) return step;
  sim->ports = *ports;
  step.step = [](void* self, const void* const* in, void* const* out) {
    auto* s = static_cast<rta_sim*>(self);
    for (int i = 0; i < s->ports.inputs; ++i) std::memcpy(out[i], in[i], s->ports.in_bytes[i]);
    s->advance(s->now + s->cost);
    return 0;
  };
  step.self = sim;
  step.in_bytes = ports->in_bytes[0];
  step.out_bytes = ports->out_bytes[0];
  return step;
}

RTA_API rta_sim_counts rta_sim_counted(const rta_sim* sim) { return sim ? sim->counts : rta_sim_counts{}; }

RTA_API void rta_sim_calm(rta_sim* sim) {
  if (!sim) return;
  sim->config.p_stall = sim->config.p_slow = 0;
  for (const auto& p : sim->producers) p->calm();
}

RTA_API void rta_sim_destroy(rta_sim* sim) {
  if (!sim) return;
  for (const auto& p : sim->producers) rta_latest_take_back(p->slot, RTA_LATEST_WRITER);
  delete sim;
}
