// rta_workers.h under the sanitizers: batchers of several plans on shared threads, put to by several threads, that come
// and go while the others run; every put is answered once, and what was in time is what the clock says.
#include "rta_workers.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "native/abi/gru_plan.h"
#include "rta_batcher.h"

namespace check {
namespace {

constexpr int kStreams = 70, kUnits = 4, kIn = 3, kModels = 4, kPuts = 3000;

using Batcher = std::unique_ptr<rta_batcher, void (*)(rta_batcher*)>;

Batcher batcher(rta_plan* plan, rta_workers* workers, int64_t tickets, int late = RTA_LATE_ANSWER, int manual = 0) {
  rta_batcher_config c = {};
  c.plan = plan;
  c.streams = kStreams;
  c.in_bytes = kIn * 4;
  c.out_bytes = kUnits * 4;
  c.deadline_ns = 2'000'000;
  c.max_batch = 32;
  c.tickets = tickets;
  c.spin_ns = 20'000;
  c.late = late;
  c.cpu = -1;
  c.manual = manual;
  c.workers = workers;
  return {rta_batcher_create(&c), rta_batcher_destroy};
}

struct Seen {
  std::atomic<int64_t> put{0}, answered{0};
};

// Puts samples and takes each answer.
void caller(rta_batcher* b, int first, Seen& seen) {
  const float x[kIn] = {0.5f, -0.25f, 1.0f};
  float y[kUnits];
  for (int i = 0; i < kPuts; ++i) {
    const int64_t ticket = rta_batcher_put(b, (first + 3 * i) % kStreams, x, RTA_STAMP_NOW);
    if (ticket < 0) continue;
    seen.put.fetch_add(1);
    if (i % 8 == 7) {
      rta_batcher_leave(b, ticket);
      continue;
    }
    if (rta_batcher_wait(b, ticket, 60'000'000'000) == 1 && rta_batcher_take(b, ticket, y, nullptr) >= 0)
      seen.answered.fetch_add(1);
  }
}

void check_load(Report& report, int threads) {
  Random random(21);
  const rta_workers_config config = {threads, nullptr, 0, 0};
  std::unique_ptr<rta_workers, void (*)(rta_workers*)> pool(rta_workers_create(&config), rta_workers_destroy);
  report.expect(pool != nullptr, "workers: %s", rta_batcher_error_text());
  if (!pool) return;
  std::vector<Plan> plans;
  std::vector<Batcher> batchers;
  for (int i = 0; i < kModels; ++i) {
    plans.push_back(gru_plan(random, kStreams, kIn, kUnits));
    report.expect(plans.back() != nullptr, "a plan: %s", rta_error());
    if (!plans.back()) return;
    batchers.push_back(batcher(plans.back().get(), pool.get(), 200, i % 2 ? RTA_LATE_DROP : RTA_LATE_ANSWER));
    report.expect(batchers.back() && rta_batcher_start(batchers.back().get()) == 0, "a start: %s",
                  rta_batcher_error_text());
  }
  report.expect(rta_workers_stop(pool.get()) == -1, "workers that are used end");
  Seen seen[kModels];
  std::vector<std::thread> callers;
  for (int i = 0; i < kModels; ++i)
    for (int half = 0; half < 2; ++half)
      callers.emplace_back(caller, batchers[static_cast<size_t>(i)].get(), half, std::ref(seen[i]));
  // Meanwhile others come and go, some with samples that nobody waits for.
  const Plan passing = gru_plan(random, kStreams, kIn, kUnits);
  for (int i = 0; i < 20 && passing; ++i) {
    const Batcher guest = batcher(passing.get(), pool.get(), i % 2 ? 0 : 100);
    report.expect(guest && rta_batcher_start(guest.get()) == 0, "a guest: %s", rta_batcher_error_text());
    const float x[kIn] = {};
    for (int s = 0; s < 40; ++s) rta_batcher_put(guest.get(), s, x, RTA_STAMP_NOW);
  }
  for (std::thread& each : callers) each.join();
  int64_t batches = 0;
  for (int i = 0; i < kModels; ++i) {
    rta_batcher* b = batchers[static_cast<size_t>(i)].get();
    rta_batcher_stop(b);
    while (!rta_batcher_wait_stopped(b, 1'000'000'000)) {
    }
    rta_batcher_stats s;
    rta_batcher_statistics(b, &s);
    report.expect(s.put == seen[i].put.load() && s.put == s.ok + s.late + s.replaced + s.dropped + s.failed,
                  "of %lld puts %lld were answered", static_cast<long long>(s.put),
                  static_cast<long long>(s.ok + s.late + s.replaced + s.dropped));
    report.expect(seen[i].answered.load() >= s.put - 2 * kPuts / 8 - 2, "answers that nobody got");
    report.expect(s.ok + s.late == 0 || s.held_up_ns >= s.held_up, "a hold-up without time");
    batches += s.batches;
  }
  rta_workers_stats all;
  rta_workers_statistics(pool.get(), &all);
  report.expect(all.batchers == 0 && all.batches >= batches && all.busy_ns > 0, "counts of the workers");
  report.expect(rta_workers_stop(pool.get()) == 0, "workers without batchers: %s", rta_batcher_error_text());
}

// Two batches that are both there: the one that is due first goes first, and what it takes longer holds up the other.
void check_order(Report& report) {
  Random random(22);
  const rta_workers_config config = {1, nullptr, 0, 1};
  std::unique_ptr<rta_workers, void (*)(rta_workers*)> pool(rta_workers_create(&config), rta_workers_destroy);
  const Plan first = gru_plan(random, kStreams, kIn, kUnits), second = gru_plan(random, kStreams, kIn, kUnits);
  if (!first || !second || !pool) return report.expect(false, "plans of workers: %s", rta_error());
  const Batcher a = batcher(first.get(), pool.get(), 10, RTA_LATE_ANSWER, 1);
  const Batcher b = batcher(second.get(), pool.get(), 10, RTA_LATE_ANSWER, 1);
  rta_batcher_start(a.get());
  rta_batcher_start(b.get());
  int64_t now = 10'000'000, until;
  report.expect(!rta_workers_turn(pool.get(), now, 0, &until) && until == INT64_MAX, "a batch of nothing");
  const float x[kIn] = {1, 2, 3};
  float y[kUnits];
  const int64_t late = rta_batcher_put(a.get(), 0, x, now - 1'000'000),
                early = rta_batcher_put(b.get(), 0, x, now - 1'500'000);
  report.expect(!rta_workers_turn(pool.get(), now, 0, &until), "a batch before its time");
  report.expect(until == now + 495'000, "it leaves at %lld", static_cast<long long>(until - now));
  now = until;
  report.expect(rta_workers_turn(pool.get(), now, 800'000, &until) == b.get(), "not the one that is due first");
  now += 800'000;
  report.expect(rta_workers_turn(pool.get(), now, 10'000, &until) == a.get(), "the other one waits for ever");
  int64_t by = 0;
  int status = rta_batcher_take(b.get(), early, y, &by);
  report.expect(status == RTA_ANSWER_LATE && by == 795'000, "late by %lld", static_cast<long long>(by));
  status = rta_batcher_take(a.get(), late, y, &by);
  report.expect(status == RTA_ANSWER_LATE && by == 305'000, "late by %lld", static_cast<long long>(by));
  rta_batcher_stats s;
  rta_batcher_statistics(b.get(), &s);
  report.expect(s.overran == 1 && s.overran_ns == 795'000 && s.held_up == 0, "an overrun of %lld",
                static_cast<long long>(s.overran_ns));
  rta_batcher_statistics(a.get(), &s);
  report.expect(s.held_up == 1 && s.held_up_ns == 300'000, "held up for %lld", static_cast<long long>(s.held_up_ns));
}

// Workers that were not made.
void check_none(Report& report) {
  report.expect(!rta_workers_create(nullptr) && std::strstr(rta_batcher_error_text(), "config"), "without a config");
  report.expect(rta_workers_stop(nullptr) == -1 && std::strstr(rta_batcher_error_text(), "the workers are NULL"),
                "a stop: %s", rta_batcher_error_text());
  report.expect(!*rta_workers_refused(nullptr), "what was refused");
  rta_workers_stats stats = {7, 7, 7};
  rta_workers_statistics(nullptr, &stats);
  report.expect(stats.batchers == 0 && stats.batches == 0 && stats.busy_ns == 0, "counts");
  int64_t until = 7;
  report.expect(!rta_workers_turn(nullptr, 1, 1, &until) && until == INT64_MAX, "a turn");
  rta_workers_destroy(nullptr);
}

}  // namespace

void check_workers(Report& report) {
  running("workers", "", "without workers");
  check_none(report);
  ++report.cases;
  running("workers", "", "order");
  check_order(report);
  ++report.cases;
  running("workers", "", "load");
  for (const int threads : {1, 3}) {
    check_load(report, threads);
    ++report.cases;
  }
}

}  // namespace check
