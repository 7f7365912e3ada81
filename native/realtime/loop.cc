// Making a loop: its settings, the models and slots that it takes, and how long a warm run is.
#include "realtime/loop.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "realtime/latest_memory.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

namespace {

bool sizes_fit(const rta_loop_config& c, const rta_loop& loop) {
  const size_t in = rta_latest_describe(c.read)->payload_bytes, out = rta_latest_describe(c.write)->payload_bytes;
  const auto takes = [&](const char* what, const Chain& chain, size_t gives) {
    if (chain.empty() || (chain.in_bytes() == in && chain.out_bytes() == gives)) return true;
    loop_error("%s takes %zu bytes and gives %zu; the slots have %zu and %zu", what, chain.in_bytes(),
               chain.out_bytes(), in, gives);
    return false;
  };
  return takes("the model", loop.main, out) && takes("the fallback", loop.fallback, out) &&
         takes("the forecast", loop.forecast, in);
}

bool settings_fit(const rta_loop_config& c) {
  if (!c.read || !c.write || c.step_count < 1) return loop_error("no slot to read or write, or no step"), false;
  if (c.read == c.write) return loop_error("one slot to read and to write"), false;
  if (c.period_ns < 1'000 || c.period_ns > 3'600'000'000'000) return loop_error("a period of 1 us to an hour"), false;
  if (c.spin_ns < 0 || c.spin_ns >= c.period_ns) return loop_error("spin_us has to be shorter than the period"), false;
  if (c.deadline_ns < 1 || c.deadline_ns > c.period_ns)
    return loop_error("a deadline of more than 0 and at most the period"), false;
  if (c.max_age_ns < 1) return loop_error("a max_age of more than 0"), false;
  if (c.on_miss < 0 || c.on_miss > 3 || c.on_stale < 0 || c.on_stale > 3 || c.on_old < 0 || c.on_old > 1 ||
      c.on_gap < 0 || c.on_gap > 1)
    return loop_error("an unknown on_miss, on_stale, on_old or on_gap"), false;
  if ((c.on_stale == RTA_STALE_FALLBACK) != (c.fallback_count > 0))
    return loop_error("a fallback and on_stale \"fallback\" go together"), false;
  if ((c.on_stale == RTA_STALE_FORECAST) != (c.forecast_count > 0))
    return loop_error("a forecast and on_stale \"forecast\" go together"), false;
  if (c.priority < 0 || c.priority > 99) return loop_error("a priority of 0 to 99"), false;
  return true;
}

}  // namespace

RTA_API rta_loop* rta_loop_create(const rta_loop_config* config) {
  if (!settings_fit(*config)) return nullptr;
  std::unique_ptr<rta_loop> loop(new (std::nothrow) rta_loop());
  if (!loop) return loop_error("no memory"), nullptr;
  loop->config = *config;
  loop->clock = config->clock ? *config->clock : kClock;
  if (!config->clock) loop->clock.self = &loop->stopping;
  if (config->name) loop->name = config->name;
  if (!loop->main.set("the model", config->steps, config->step_count) ||
      !loop->fallback.set("the fallback", config->fallback, config->fallback_count) ||
      !loop->forecast.set("the forecast", config->forecast, config->forecast_count) || !sizes_fit(*config, *loop))
    return nullptr;
  const size_t in = loop->main.in_bytes();
  loop->last_out = buffer(loop->main.out_bytes());
  loop->ahead = buffer(in);
  loop->behind = buffer(in);
  loop->nothing = buffer(in);
  loop->used = &loop->main;
  loop->stats = make_stats(config->name ? loop->name.c_str() : nullptr);
  if (!loop->stats) return nullptr;
  rta_loop_stats& s = *loop->stats;
  s.period_ns = config->period_ns;
  s.deadline_ns = config->deadline_ns;
  s.max_age_ns = config->max_age_ns;
  s.spin_ns = config->spin_ns;
  return loop.release();
}

RTA_API int rta_loop_every(rta_loop* loop, int64_t n, const rta_step* steps, int count, rta_latest* read,
                           rta_latest* write) {
  if (loop->begun) return loop_error("every() after the start");
  if (n < 1 || count < 1 || !write) return loop_error("every() takes n of 1 or more, a step and a slot to write");
  auto other = std::make_unique<Slower>();
  other->n = n;
  other->next = 0;
  other->read = read;
  other->write = write;
  if (!other->chain.set("every()", steps, count)) return -1;
  const size_t in = rta_latest_describe(read ? read : loop->config.read)->payload_bytes;
  const size_t out = rta_latest_describe(write)->payload_bytes;
  if (other->chain.in_bytes() != in || other->chain.out_bytes() != out)
    return loop_error("every(): takes %zu bytes and gives %zu; the slots have %zu and %zu", other->chain.in_bytes(),
                      other->chain.out_bytes(), in, out);
  loop->slower.push_back(std::move(other));
  return 0;
}

bool rta_loop::begin() {
  if (begun) return loop_error("a loop starts once; make another"), false;
  std::vector<const Chain*> chains = {&main, &fallback, &forecast};
  std::vector<std::pair<rta_latest*, rta_latest_role>> sides = {{config.read, RTA_LATEST_READER},
                                                                {config.write, RTA_LATEST_WRITER}};
  for (const auto& other : slower) {
    chains.push_back(&other->chain);
    sides.push_back({other->write, RTA_LATEST_WRITER});
    if (other->read) sides.push_back({other->read, RTA_LATEST_READER});
  }
  std::vector<const void*> wanted;
  for (const Chain* chain : chains)
    for (const rta_step& s : chain->steps())
      if (s.identity) wanted.push_back(s.identity);
  // A model may be in several chains of one loop: they take turns.
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  if (!take_identities(wanted)) return loop_error("a model of this loop is in another one that runs"), false;
  identities = wanted;
  for (const auto& [slot, role] : sides) {
    if (rta_latest_lend(slot, role) != 0) {
      end();
      return loop_error("a slot that something else %s already", role == RTA_LATEST_READER ? "reads" : "writes"), false;
    }
    borrowed.push_back({slot, role});
  }
  if (!measure()) {
    end();
    return false;
  }
  begun = true;
  return true;
}

void rta_loop::end() {
  for (const auto& [slot, role] : borrowed) rta_latest_take_back(slot, role);
  borrowed.clear();
  give_identities(identities);
  identities.clear();
}

// How long a warm run takes, and whether the fallback can be in time: the median of 31, after some that warm up.
bool rta_loop::measure() {
  constexpr int kRuns = 31, kBefore = 8;
  for (Chain* chain : {&main, &fallback}) {
    if (!chain->warms()) continue;
    int64_t took[kRuns];
    for (int i = -kBefore; i < kRuns; ++i) {
      const int64_t began = clock.now(clock.self);
      chain->run_for_nothing(nothing.get());
      if (i >= 0) took[i] = clock.now(clock.self) - began;
    }
    std::sort(took, took + kRuns);
    const int64_t median = took[kRuns / 2];
    if (chain == &fallback && median > config.deadline_ns) {
      loop_error("the fallback takes %.1f us; the deadline is %.1f us", static_cast<double>(median) * 1e-3,
                 static_cast<double>(config.deadline_ns) * 1e-3);
      return false;
    }
    if (chain == &main) first_warm_ns = next_warm_ns = median;
  }
  return true;
}
