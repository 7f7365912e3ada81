// rta_latest.h and rta_loop.h under the sanitizers: slots that one thread writes and another reads, and loops between
// two slots while their statistics are read. A value is whole and never older than the one before it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "native/abi/gru_plan.h"
#include "rta_loop.h"
#include "rta_loop_sim.h"

namespace check {
namespace {

constexpr int64_t kStreams = 3, kIn = 40, kUnits = 5;
constexpr int kPuts = 20000;

using Slot = std::unique_ptr<rta_latest, void (*)(rta_latest*)>;
using Loop = std::unique_ptr<rta_loop, void (*)(rta_loop*)>;

Slot slot(int64_t width, rta_latest_readers readers) {
  const int64_t shape[] = {kStreams, width};
  return {rta_latest_create(nullptr, RTA_LATEST_FLOAT32, 2, shape, readers, RTA_LATEST_NAN_PASS), rta_latest_close};
}

bool is_new(rta_latest* from, rta_latest_sample& sample) {
  return rta_latest_get(from, &sample) == 0 && sample.status == RTA_LATEST_NEW;
}

// A value whose every number is the one of the put, until `ended`.
void write_numbers(rta_latest* to, std::atomic<bool>& ended) {
  std::vector<float> x(kStreams * kIn);
  for (int i = 1; i <= kPuts; ++i) {
    std::fill(x.begin(), x.end(), static_cast<float>(i));
    rta_latest_put(to, x.data(), 0);
    if (i % 64 == 0) std::this_thread::yield();
  }
  ended = true;
}

void check_slot(Report& report, rta_latest_readers readers) {
  const Slot made = slot(kIn, readers);
  report.expect(made != nullptr, "a slot: %s", rta_latest_error_text());
  if (!made) return;
  std::atomic<bool> ended{false};
  std::thread writer(write_numbers, made.get(), std::ref(ended));
  float last = 0;
  bool whole = true, forward = true;
  int64_t seen = 0;
  for (bool once_more = true; once_more;) {
    once_more = !ended;
    rta_latest_sample sample;
    if (!is_new(made.get(), sample)) continue;
    const float* x = static_cast<const float*>(sample.data);
    whole &= std::all_of(x, x + kStreams * kIn, [&](float v) { return v == x[0]; }) && sample.seq == x[0];
    forward &= x[0] > last;
    last = x[0];
    ++seen;
  }
  writer.join();
  report.expect(whole, "a value of two puts");
  report.expect(forward, "a value twice, or before its time");
  report.expect(seen > 0 && last == kPuts, "the last of %lld values seen is %g", static_cast<long long>(seen),
                static_cast<double>(last));
}

int64_t now_of(const int64_t& counter) { return __atomic_load_n(&counter, __ATOMIC_RELAXED); }

// A loop of a plan: inputs are put and results taken by other threads, and its statistics are read, until it has run
// long enough.
void check_loop(Report& report, int on_miss) {
  Random random(31);
  const Plan plan = gru_plan(random, kStreams, kIn, kUnits), other = gru_plan(random, kStreams, kIn, kUnits);
  report.expect(plan && other, "plans of a loop: %s", rta_error());
  if (!plan || !other) return;
  const Slot x = slot(kIn, RTA_LATEST_ONE), y = slot(kUnits, RTA_LATEST_ONE), every = slot(kUnits, RTA_LATEST_MANY);
  rta_plan_step kept = {plan.get(), kStreams, kStreams}, kept_other = {other.get(), kStreams, kStreams};
  const rta_step step = rta_step_of_plan(&kept, kStreams * kIn * 4, kStreams * kUnits * 4);
  const rta_step second = rta_step_of_plan(&kept_other, kStreams * kIn * 4, kStreams * kUnits * 4);
  rta_loop_config c = {};
  c.read = x.get();
  c.write = y.get();
  c.steps = &step;
  c.step_count = 1;
  c.period_ns = c.deadline_ns = 500'000;
  c.max_age_ns = 60'000'000'000;
  c.spin_ns = RTA_SPIN_AUTO;
  c.on_miss = on_miss;
  c.cpu = -1;
  c.warm = 1;
  const Loop loop(rta_loop_create(&c), rta_loop_destroy);
  report.expect(
      loop && rta_loop_every(loop.get(), 3, &second, 1, nullptr, every.get()) == 0 && rta_loop_start(loop.get()) == 0,
      "a loop: %s", rta_loop_error_text());
  if (!loop) return;
  std::atomic<bool> ended{false};
  std::thread writer([&] {
    std::vector<float> value(kStreams * kIn);
    for (int i = 0; !ended; ++i) {
      std::fill(value.begin(), value.end(), static_cast<float>(i % 100) / 100);
      rta_latest_put(x.get(), value.data(), 0);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  });
  bool finite = true;
  std::atomic<int64_t> results{0};
  std::thread reader([&] {
    while (!ended) {
      rta_latest_sample sample;
      if (is_new(y.get(), sample)) {
        const float* values = static_cast<const float*>(sample.data);
        finite &= std::all_of(values, values + kStreams * kUnits, [](float v) { return v >= -1 && v <= 1; });
        results.fetch_add(1);
      }
      if (is_new(every.get(), sample)) results.fetch_add(1);
    }
  });
  const rta_loop_stats* stats = rta_loop_statistics(loop.get());
  while (now_of(stats->fresh) < 200 || results.load() < 20)
    if (now_of(stats->state) != RTA_LOOP_RUNNING) break;
  const int64_t fresh = now_of(stats->fresh);
  rta_loop_stop(loop.get());
  while (rta_loop_wait(loop.get(), 1'000'000'000) == 0) {
  }
  ended = true;
  writer.join();
  reader.join();
  report.expect(fresh >= 200, "a loop ends after %lld results: %s", static_cast<long long>(fresh),
                rta_loop_failure(loop.get()) ? rta_loop_failure(loop.get()) : "it does not say why");
  report.expect(finite, "numbers that no GRU gives");
  report.expect(now_of(stats->cycles) >= now_of(stats->fresh), "more results than cycles");
}

// A slot that was not made.
void check_no_slot(Report& report) {
  const auto said = [&](const char* what, int64_t code) {
    report.expect(code == RTA_LATEST_BAD && std::strstr(rta_latest_error_text(), "the slot is NULL"), "%s gives %d: %s",
                  what, static_cast<int>(code), rta_latest_error_text());
    report.expect(!rta_latest_open(nullptr) && std::strstr(rta_latest_error_text(), "a name"), "a slot without a name");
  };
  const float x[1] = {};
  rta_latest_sample sample = {x, 7, 7, 7, 7, RTA_LATEST_NEW};
  said("put", rta_latest_put(nullptr, x, 0));
  said("get", rta_latest_get(nullptr, &sample));
  said("put_at", rta_latest_put_at(nullptr, x, 0, 1));
  said("publish", rta_latest_publish(nullptr, x, 0, 1, 0));
  said("lend", rta_latest_lend(nullptr, RTA_LATEST_READER));
  said("lock_memory", rta_latest_lock_memory(nullptr));
  report.expect(sample.data == x && sample.seq == 7, "a sample of a get");
  rta_latest_take(nullptr, &sample);
  report.expect(!sample.data && sample.seq == 0 && sample.status == RTA_LATEST_NONE, "a sample that is taken");
  report.expect(!rta_latest_create(nullptr, RTA_LATEST_FLOAT32, 1, nullptr, RTA_LATEST_ONE, RTA_LATEST_NAN_PASS),
                "a slot without a shape");
  report.expect(rta_latest_unlink(nullptr) == RTA_LATEST_BAD, "a name that is none");
  report.expect(!rta_latest_next(nullptr) && !rta_latest_buffer(nullptr, 0) && !rta_latest_describe(nullptr),
                "addresses");
  rta_latest_take_back(nullptr, RTA_LATEST_READER);
  rta_latest_leave(nullptr);
  rta_latest_close(nullptr);
}

// A loop that was not made.
void check_no_loop(Report& report) {
  const auto said = [&](const char* what, int code) {
    report.expect(code == -1 && std::strstr(rta_loop_error_text(), "loop, which was not made"), "%s gives %d: %s", what,
                  code, rta_loop_error_text());
    report.expect(!rta_loop_create(nullptr) && std::strstr(rta_loop_error_text(), "config"), "a loop without a config");
  };
  const Slot y = slot(kUnits, RTA_LATEST_ONE);
  const rta_step step = {};
  const rta_loop_ports ports = {};
  said("every", rta_loop_every(nullptr, 1, &step, 1, nullptr, y.get()));
  said("every_ports", rta_loop_every_ports(nullptr, 1, &step, 1, &ports));
  said("start", rta_loop_start(nullptr));
  said("run", rta_loop_run(nullptr, 1));
  said("wait", rta_loop_wait(nullptr, 0));
  report.expect(!rta_loop_create_ports(nullptr, nullptr) && !rta_loop_stats_open(nullptr), "a loop, or its statistics");
  report.expect(!*rta_loop_refused(nullptr) && !rta_loop_failure(nullptr) && !rta_loop_statistics(nullptr), "texts");
  report.expect(rta_loop_alive(nullptr) == 0 && rta_loop_quantile(nullptr, 0.5) == -1, "a quantile of nothing");
  report.expect(rta_step_of_model(nullptr, 0, nullptr, nullptr, nullptr) == -1 && *rta_loop_error_text(), "a step");
  rta_loop_stop(nullptr);
  rta_loop_stats_close(nullptr);
  rta_loop_destroy(nullptr);
}

// A simulated world that was not made: a loop refuses what it gives.
void check_no_sim(Report& report) {
  const Slot x = slot(kIn, RTA_LATEST_ONE), y = slot(kIn, RTA_LATEST_ONE);
  const rta_sim_config none = {};
  const rta_step_ports ports = {};
  report.expect(!rta_sim_create(nullptr, x.get()) && !rta_sim_create(&none, nullptr), "a world of nothing");
  report.expect(rta_sim_add(nullptr, &none, x.get()) == -1, "another slot");
  const rta_sim_counts counts = rta_sim_counted(nullptr);
  report.expect(counts.produced == 0 && counts.cycles == 0 && counts.waiting == 0, "counts");
  const rta_step steps[] = {rta_sim_step(nullptr, 8), rta_sim_step_ports(nullptr, &ports),
                            rta_step_of_plan(nullptr, 4, 4)};
  for (const rta_step& step : steps) report.expect(!step.step, "a step");
  const rta_loop_clock clock = rta_sim_clock(nullptr);
  rta_loop_config c = {};
  c.read = x.get();
  c.write = y.get();
  c.steps = steps;
  c.step_count = 1;
  c.period_ns = c.deadline_ns = 500'000;
  c.max_age_ns = 1'000'000;
  c.cpu = -1;
  rta_sim_expect(nullptr, &c);
  report.expect(!rta_loop_create(&c) && !std::strstr(rta_loop_error_text(), "clock"), "a loop of that step");
  c.clock = &clock;
  report.expect(!rta_loop_create(&c) && std::strstr(rta_loop_error_text(), "clock"), "a loop of that clock: %s",
                rta_loop_error_text());
  rta_sim_calm(nullptr);
  rta_sim_destroy(nullptr);
}

}  // namespace

void check_realtime(Report& report) {
  running("realtime", "", "without slots, loops and worlds");
  check_no_slot(report);
  check_no_loop(report);
  check_no_sim(report);
  ++report.cases;
  running("realtime", "", "slots");
  for (const rta_latest_readers readers : {RTA_LATEST_ONE, RTA_LATEST_MANY}) {
    check_slot(report, readers);
    ++report.cases;
  }
  running("realtime", "", "loops");
  for (const int on_miss : {RTA_MISS_HOLD, RTA_MISS_LATE}) {
    check_loop(report, on_miss);
    ++report.cases;
  }
}

}  // namespace check
