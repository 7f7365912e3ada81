// Making a loop: its settings, the models and slots that it takes, and how long a warm run is.
#include "realtime/loop.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "realtime/latest_memory.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

namespace {

std::vector<size_t> bytes_of(const std::vector<rta_latest*>& slots) {
  std::vector<size_t> bytes;
  for (const rta_latest* slot : slots) bytes.push_back(rta_latest_describe(slot)->payload_bytes);
  return bytes;
}

bool sizes_fit(const char* what, const Chain& chain, const std::vector<size_t>& in, const std::vector<size_t>& out) {
  if (chain.empty() || (chain.in_bytes() == in && chain.out_bytes() == out)) return true;
  loop_error("%s takes %s bytes and gives %s; the slots have %s and %s", what, listed(chain.in_bytes()).c_str(),
             listed(chain.out_bytes()).c_str(), listed(in).c_str(), listed(out).c_str());
  return false;
}

bool slots_fit(const rta_loop_ports& p, bool reads) {
  if (p.bytes != sizeof p) return loop_error("rta_loop_ports of another version"), false;
  const auto there = [](rta_latest* const* slots, int count) {
    return slots && count >= 1 && count <= RTA_LOOP_PORTS && !std::count(slots, slots + count, nullptr);
  };
  if ((reads && !there(p.read, p.read_count)) || !there(p.write, p.write_count))
    return loop_error("no slot to read or write, or more than %d", RTA_LOOP_PORTS), false;
  for (int i = 0; reads && i < p.read_count; ++i)
    if (std::count(p.read + i + 1, p.read + p.read_count, p.read[i]))
      return loop_error("one slot for two inputs"), false;
  for (int i = 0; i < p.write_count; ++i)
    if ((reads && std::count(p.read, p.read + p.read_count, p.write[i])) ||
        std::count(p.write + i + 1, p.write + p.write_count, p.write[i]))
      return loop_error("one slot to read and to write, or for two outputs"), false;
  const uint64_t all = reads ? (uint64_t{1} << p.read_count) - 1 : ~uint64_t{0};
  if ((p.any_age & ~all) || (reads && p.any_age == all))
    return loop_error("any_age names an input that there is not, or all of them"), false;
  return true;
}

bool settings_fit(const rta_loop_config& c) {
  if (c.step_count < 1) return loop_error("no step"), false;
  if (c.period_ns < 1'000 || c.period_ns > 3'600'000'000'000) return loop_error("a period of 1 us to an hour"), false;
  if ((c.spin_ns < 0 && c.spin_ns != RTA_SPIN_AUTO) || c.spin_ns >= c.period_ns)
    return loop_error("spin_us has to be shorter than the period"), false;
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
  if (c.clock && !(c.clock->now && c.clock->sleep_until && c.clock->spin_until))
    return loop_error("a clock without its functions"), false;
  if (c.priority < 0 || c.priority > 99) return loop_error("a priority of 0 to 99"), false;
  return true;
}

}  // namespace

RTA_API rta_loop* rta_loop_create(const rta_loop_config* config) {
  if (!config) return loop_error("the config is NULL"), nullptr;
  rta_loop_ports ports = {};
  ports.bytes = sizeof ports;
  ports.read = &config->read;
  ports.write = &config->write;
  ports.read_count = ports.write_count = 1;
  return rta_loop_create_ports(config, &ports);
}

RTA_API rta_loop* rta_loop_create_ports(const rta_loop_config* config, const rta_loop_ports* ports) {
  if (!config || !ports) return loop_error("the %s is NULL", config ? "list of ports" : "config"), nullptr;
  if (!slots_fit(*ports, true) || !settings_fit(*config)) return nullptr;
  std::unique_ptr<rta_loop> loop(new (std::nothrow) rta_loop());
  if (!loop) return loop_error("no memory"), nullptr;
  loop->config = *config;
  loop->clock = config->clock ? *config->clock : kClock;
  if (!config->clock) loop->clock.self = &loop->stopping;
  if (config->name) loop->name = config->name;
  loop->inputs.set(ports->read, ports->read_count, ports->any_age);
  loop->write.assign(ports->write, ports->write + ports->write_count);
  loop->results.resize(loop->write.size());
  const std::vector<size_t> in = bytes_of(loop->inputs.slots()), out = bytes_of(loop->write);
  if (!loop->main.set("the model", config->steps, config->step_count, ports->steps) ||
      !loop->fallback.set("the fallback", config->fallback, config->fallback_count, ports->fallback) ||
      !loop->forecast.set("the forecast", config->forecast, config->forecast_count, ports->forecast) ||
      !sizes_fit("the model", loop->main, in, out) || !sizes_fit("the fallback", loop->fallback, in, out) ||
      !sizes_fit("the forecast", loop->forecast, in, in))
    return nullptr;
  loop->last_out.make(out);
  for (Buffers* each : {&loop->ahead, &loop->behind, &loop->nothing}) each->make(in);
  loop->used = &loop->main;
  loop->stats = make_stats(config->name ? loop->name.c_str() : nullptr);
  if (!loop->stats) return nullptr;
  rta_loop_stats& s = *loop->stats;
  s.period_ns = config->period_ns;
  s.deadline_ns = config->deadline_ns;
  s.max_age_ns = config->max_age_ns;
  loop->spin.set(config->spin_ns, config->period_ns);
  s.spin_ns = loop->spin.ns();
  return loop.release();
}

RTA_API int rta_loop_every(rta_loop* loop, int64_t n, const rta_step* steps, int count, rta_latest* read,
                           rta_latest* write) {
  if (!write) return loop_error("every() has no slot to write");
  rta_loop_ports ports = {};
  ports.bytes = sizeof ports;
  ports.read = read ? &read : nullptr;
  ports.read_count = 1;
  ports.write = &write;
  ports.write_count = 1;
  return rta_loop_every_ports(loop, n, steps, count, &ports);
}

RTA_API int rta_loop_every_ports(rta_loop* loop, int64_t n, const rta_step* steps, int count,
                                 const rta_loop_ports* ports) {
  if (!loop || !ports) return loop_error("the %s is NULL", loop ? "list of ports" : kNoLoop);
  if (loop->begun) return loop_error("every() after the start");
  if (n < 1 || count < 1) return loop_error("every() takes n of 1 or more, and a step");
  if (!slots_fit(*ports, ports->read != nullptr)) return -1;
  auto other = std::make_unique<Slower>();
  other->n = n;
  other->next = 0;
  if (ports->read) other->inputs.set(ports->read, ports->read_count, ports->any_age);
  other->write.assign(ports->write, ports->write + ports->write_count);
  other->results.resize(other->write.size());
  const Inputs& inputs = ports->read ? other->inputs : loop->inputs;
  if (!other->chain.set("every()", steps, count, ports->steps) ||
      !sizes_fit("every()", other->chain, bytes_of(inputs.slots()), bytes_of(other->write)))
    return -1;
  loop->slower.push_back(std::move(other));
  return 0;
}

bool rta_loop::begin() {
  if (begun) return loop_error("a loop starts once; make another"), false;
  std::vector<const Chain*> chains = {&main, &fallback, &forecast};
  std::vector<std::pair<rta_latest*, rta_latest_role>> sides;
  const auto take_sides = [&](const Inputs& from, const std::vector<rta_latest*>& to) {
    for (rta_latest* slot : from.slots()) sides.push_back({slot, RTA_LATEST_READER});
    for (rta_latest* slot : to) sides.push_back({slot, RTA_LATEST_WRITER});
  };
  take_sides(inputs, write);
  for (const auto& other : slower) {
    chains.push_back(&other->chain);
    take_sides(other->inputs, other->write);
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
  stopping.store(0, std::memory_order_relaxed);  // what was asked before is of no loop that runs
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
      chain->run_for_nothing(nothing.in());
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
