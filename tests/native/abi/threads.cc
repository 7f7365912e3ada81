// Plans under the sanitizers that several threads share: the parts of a call, calls of two plans at once, and weights
// that another thread offers while calls go on. Results are the same bits as on one thread.
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "native/abi/gru_plan.h"

namespace check {
namespace {

constexpr int64_t kStreams = 96, kIn = 48, kUnits = 64;
constexpr int kCalls = 200;

std::vector<float> numbers(Random& random) {
  std::vector<float> x(kStreams * kIn);
  for (float& v : x) v = random.normal();
  return x;
}

// The first step of all streams.
std::vector<float> first_step(rta_plan* plan, const std::vector<float>& x) {
  std::vector<float> y(kStreams * kUnits);
  const void* in[] = {x.data()};
  void* out[] = {y.data()};
  rta_plan_reset(plan, 0, kStreams);
  rta_plan_run(plan, in, out, kStreams);
  return y;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_parts(Report& report) {
  Plan plans[3] = {{nullptr, nullptr}, {nullptr, nullptr}, {nullptr, nullptr}};
  for (int i = 0; i < 3; ++i) {
    Random random(41);  // the same weights
    plans[i] = gru_plan(random, kStreams, kIn, kUnits, i ? 2 : 1);
    report.expect(plans[i] != nullptr, "a plan: %s", rta_error());
    if (!plans[i]) return;
  }
  Random random(42);
  const std::vector<float> x = numbers(random), want = first_step(plans[0].get(), x);
  std::atomic<int> wrong{0};
  const auto calls = [&](rta_plan* plan) {
    for (int i = 0; i < kCalls; ++i) wrong += !same(first_step(plan, x), want);
  };
  std::thread beside(calls, plans[1].get());
  calls(plans[2].get());
  beside.join();
  report.expect(wrong == 0, "%d results of several threads that one does not give", wrong.load());
}

void check_offers(Report& report, int threads) {
  Random random(43);
  const Plan plan = gru_plan(random, kStreams, kIn, kUnits, threads),
             next = gru_plan(random, kStreams, kIn, kUnits, threads);
  report.expect(plan && next, "plans: %s", rta_error());
  if (!plan || !next) return;
  const std::vector<float> x = numbers(random), one = first_step(plan.get(), x), other = first_step(next.get(), x);
  report.expect(!same(one, other), "two models that are one");
  std::atomic<bool> ended{false};
  std::atomic<int> offers{0}, withdrawn{0}, refused{0};
  std::thread offering([&] {
    while (!ended) {
      if (rta_plan_pending(plan.get())) {
        if (offers.load() % 5 == 0) withdrawn += rta_plan_withdraw(plan.get(), next.get());
        std::this_thread::yield();
        continue;
      }
      refused += rta_plan_offer(plan.get(), next.get()) != 0;
      ++offers;
    }
  });
  int wrong = 0, by_one = 0, by_other = 0;
  for (int i = 0; i < 20 * kCalls && (i < kCalls || by_one < 10 || by_other < 10); ++i) {
    const std::vector<float> y = first_step(plan.get(), x);
    const bool is_one = same(y, one), is_other = same(y, other);
    by_one += is_one;
    by_other += is_other;
    wrong += !is_one && !is_other;
  }
  ended = true;
  offering.join();
  report.expect(wrong == 0, "%d results of neither model", wrong);
  report.expect(by_one && by_other && refused == 0, "of %d offers %d were refused; %d calls by one, %d by the other",
                offers.load(), refused.load(), by_one, by_other);
}

}  // namespace

void check_threads(Report& report) {
  running("threads", "", "parts");
  check_parts(report);
  ++report.cases;
  running("threads", "", "offers");
  for (const int threads : {1, 2}) {
    check_offers(report, threads);
    ++report.cases;
  }
}

}  // namespace check
