// One cycle of a loop: wake, warm, take, decide, compute, publish, count.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "realtime/loop.h"

using namespace rta_realtime;

bool rta_loop::fail(rta_loop_failed_by by, const char* format, ...) {
  char text[400];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  failure = text;
  put(stats->failed_by, by);
  failed = true;
  return false;
}

namespace {

constexpr int kWarmRuns = 2;  // the second brings what the first pushed out; more change nothing that was measured
constexpr size_t kRehearsedBytes = 4096;  // of each result

// An estimate rises at once and falls slowly: a warm run that ends after the grid point costs more than one left out.
void learn(int64_t& estimate, int64_t measured) {
  estimate = measured > estimate ? measured : estimate - (estimate - measured) / 8;
}

}  // namespace

// Runs what is next to run, on the last input, while there is time for it before `until`.
void rta_loop::warm_up(int64_t until) {
  if (!config.warm || !used->warms()) return;
  const void* const* in = used == &main && !inputs.none() ? inputs.data() : nothing.in();
  for (int i = 0; i < kWarmRuns; ++i) {
    int64_t& estimate = i ? next_warm_ns : first_warm_ns;
    const int64_t began = clock.now(clock.self);
    if (began + estimate + estimate / 4 > until) {
      if (i == 0) {
        add(stats->warm_skipped);
        estimate -= estimate / 64;  // so that one slow run does not end it for good
      }
      return;
    }
    used->run_for_nothing(in);
    rehearse(began);
    learn(estimate, clock.now(clock.self) - began);
    add(stats->warm_runs);
  }
}

// What a cycle does around the model until its result is out: the code and the memory of that are cold, too. Nothing is
// taken, decided or counted by it.
void rta_loop::rehearse(int64_t now) {
  inputs.look();
  const Decision seen = decide(now);
  for (size_t i = 0; i < write.size(); ++i) {
    results[i] = rta_latest_next(write[i]);
    const size_t bytes = std::min(main.out_bytes()[i], kRehearsedBytes);
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<char*>(results[i]) + at, 1);
  }
  add(stats->cycles, 0);
  if (seen.none) add(stats->waiting, 0);
}

// What the inputs ask for at t0. It changes nothing.
rta_loop::Decision rta_loop::decide(int64_t t0) const {
  Decision d;
  d.is_new = inputs.is_new();
  d.none = inputs.none();
  if (d.none) return d;
  d.stamp = inputs.stamp();
  d.age = std::max<int64_t>(t0 - d.stamp, 0);
  d.stale = d.age > config.max_age_ns;
  if (d.stale)
    d.origin = config.on_stale == RTA_STALE_HOLD       ? RTA_ORIGIN_HELD
               : config.on_stale == RTA_STALE_FALLBACK ? RTA_ORIGIN_FALLBACK
                                                       : RTA_ORIGIN_FORECAST;
  else
    d.origin = !d.is_new && config.on_old == RTA_OLD_HOLD ? RTA_ORIGIN_HELD : RTA_ORIGIN_FRESH;
  return d;
}

// Leaves the results in the slots' next buffers. d.computed stays false where there are none, and with an origin the
// last ones are published again. False: the loop ends.
bool rta_loop::compute(Decision& d) {
  if (d.none) return true;
  const void* const* in = inputs.data();
  if (d.stale) {
    was_stale = true;
    if (config.on_stale == RTA_STALE_RAISE)
      return fail(RTA_FAILED_STALE, "a value %.1f us old; max_age_us is %.1f", static_cast<double>(d.age) * 1e-3,
                  static_cast<double>(config.max_age_ns) * 1e-3);
    if (d.origin == RTA_ORIGIN_FORECAST) {
      if (!has_ahead) {  // one without a past is asked when it is needed
        if (forecast.run(inputs.data(), ahead.data())) return fail(RTA_FAILED_STEP, "forecast: %s", forecast.error());
        has_ahead = true;
      }
      in = ahead.in();
    }
  } else {
    if (was_stale && config.on_gap == RTA_GAP_RESET) main.reset();
    was_stale = false;
    if (d.is_new) has_ahead = false;
  }
  if (d.origin == RTA_ORIGIN_HELD) return true;
  used = d.origin == RTA_ORIGIN_FALLBACK ? &fallback : &main;
  for (size_t i = 0; i < write.size(); ++i) results[i] = rta_latest_next(write[i]);
  d.computed = true;
  if (used->run(in, results.data())) return fail(RTA_FAILED_STEP, "%s", used->error());
  return true;
}

// The results, or where there are none, or they are late and that is asked, the last ones once more.
void rta_loop::publish(Decision& d, int64_t t1) {
  const int64_t origin = d.computed && d.late ? RTA_ORIGIN_MISSED : d.origin;
  if (d.computed && !(d.late && config.on_miss == RTA_MISS_HOLD)) {
    for (size_t i = 0; i < write.size(); ++i) {
      rta_latest_publish(write[i], nullptr, d.stamp, t1, origin);
      std::memcpy(last_out.data()[i], results[i], main.out_bytes()[i]);
    }
    d.published = true;
    out_stamp = d.stamp;
    has_out = true;
  } else if (has_out && origin != RTA_ORIGIN_PUT) {
    for (size_t i = 0; i < write.size(); ++i) rta_latest_publish(write[i], last_out.data()[i], out_stamp, t1, origin);
    d.held = true;
  }
}

// Statistics of the inputs, when the result is out: their memory is cold, and nobody waits for them.
void rta_loop::count_inputs(const Decision& d, int64_t t0) {
  count(stats->wake_error, t0 - due);
  if (t0 - due >= config.period_ns) add(stats->caught_up, config.on_miss == RTA_MISS_CATCH_UP);
  if (d.is_new) add(stats->overwritten, inputs.overwritten());
  if (d.none) return add(stats->waiting);
  if (d.is_new) add(stats->clock_back, inputs.after(t0));
  count(stats->age, d.age);
  if (d.stale) add(stats->stale);
}

void rta_loop::count_results(const Decision& d, int64_t t0, int64_t t1) {
  count(stats->work, t1 - t0);
  count(stats->response, t1 - due);
  add(stats->cycles);
  if (d.late) add(stats->misses);
  if (d.computed && d.origin == RTA_ORIGIN_FRESH && !d.is_new) add(stats->repeated);
  if (d.late && config.on_miss == RTA_MISS_RAISE) return;
  if (d.computed)
    add(d.origin == RTA_ORIGIN_FRESH      ? stats->fresh
        : d.origin == RTA_ORIGIN_FALLBACK ? stats->fallback
                                          : stats->forecast);
  if (d.published && d.is_new && d.origin != RTA_ORIGIN_FORECAST) count(stats->latency, t1 - d.stamp);
  if (d.held) add(stats->held);
  const bool good = !d.late && !was_stale;
  const int64_t streak = good ? 0 : stats->streak + 1;
  put(stats->streak, streak);
  if (streak > stats->longest_streak) put(stats->longest_streak, streak);
}

// After a result is out: the input that would be next, while there is time for it.
void rta_loop::foresee() {
  const int64_t origin = used == &main && !was_stale ? RTA_ORIGIN_FRESH : RTA_ORIGIN_FORECAST;
  if (forecast.empty() || inputs.none()) return;
  if (origin == RTA_ORIGIN_FRESH) {
    if (!forecast.has_past() || !inputs.is_new()) return;
    if (forecast.run(inputs.data(), ahead.data())) fail(RTA_FAILED_STEP, "forecast: %s", forecast.error());
    has_ahead = true;
  } else if (has_ahead) {  // on from its own forecast
    if (forecast.run(ahead.in(), behind.data())) fail(RTA_FAILED_STEP, "forecast: %s", forecast.error());
    ahead.swap(behind);
  }
}

bool rta_loop::run_slower() {
  const int64_t index = (due - start_ns) / config.period_ns;
  for (const auto& other : slower) {
    if (index < other->next) continue;
    other->next = (index / other->n + 1) * other->n;
    if (!other->inputs.empty()) other->inputs.take();
    const Inputs& given = other->inputs.empty() ? inputs : other->inputs;
    if (given.none()) continue;
    for (size_t i = 0; i < other->write.size(); ++i) other->results[i] = rta_latest_next(other->write[i]);
    if (other->chain.run(given.data(), other->results.data()))
      return fail(RTA_FAILED_STEP, "every(%lld): %s", static_cast<long long>(other->n), other->chain.error());
    const int64_t now = clock.now(clock.self);
    for (rta_latest* slot : other->write) rta_latest_publish(slot, nullptr, given.stamp(), now, RTA_ORIGIN_FRESH);
    add(stats->every_runs);
  }
  return true;
}

bool rta_loop::cycle() {
  void* const c = clock.self;
  int64_t now = clock.now(c);
  const int64_t wake = due - spin.ns();
  if (now < wake) {
    now = clock.sleep_until(c, wake);
    spin.learn(now - wake, config.warm && used->warms() ? first_warm_ns + first_warm_ns / 4 + next_warm_ns : 0);
    put(stats->spin_ns, spin.ns());
  }
  if (stopping.load(std::memory_order_relaxed)) return true;
  if (now < due) warm_up(due);
  const int64_t t0 = clock.spin_until(c, due);

  inputs.take();
  Decision d = decide(t0);
  const bool ran = compute(d);
  if (!ran) return count_inputs(d, t0), false;
  const int64_t t1 = clock.now(c);
  d.late = t1 - due > config.deadline_ns;
  const bool refused = d.late && config.on_miss == RTA_MISS_RAISE;
  if (!refused) publish(d, t1);
  count_inputs(d, t0);
  count_results(d, t0, t1);
  if (refused)
    return fail(RTA_FAILED_LATE, "a result %.1f us after its time; deadline_us is %.1f",
                static_cast<double>(t1 - due) * 1e-3, static_cast<double>(config.deadline_ns) * 1e-3);

  foresee();
  if (failed || !run_slower()) return false;

  now = clock.now(c);
  put(stats->updated_ns, now);
  due += config.period_ns;
  if (due < now && config.on_miss != RTA_MISS_CATCH_UP) {
    const int64_t behind_by = (now - due + config.period_ns - 1) / config.period_ns;
    due += behind_by * config.period_ns;
    add(stats->skipped, behind_by);
  }
  return true;
}
