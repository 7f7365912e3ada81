// rta_cascade.h through its C ABI, under the sanitizers: rows that leave and go on against plans that are called alone,
// what is refused, and the bits of the scores.
#include "rta_cascade.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "native/harness.h"

namespace check {
namespace {

constexpr int kIn = 5, kOut = 7, kRows = 9, kStages = 3;

using Owned = std::unique_ptr<rta_plan, void (*)(rta_plan*)>;

const char* float_kernel() {
  const rta_attr plain = Attributes().set("weight_dtype", "float32").data()[0];
  for (int i = 0; i < rta_kernel_count(); ++i) {
    const rta_kernel k = rta_kernel_at(i);
    if (std::strcmp(k.op, "linear") == 0 && !rta_kernel_reject("linear", k.name, &plain, 1)) return k.name;
  }
  return nullptr;
}

// A linear layer of small whole numbers: its sums are exact, whatever their order and the rows beside them.
Owned linear(Random& random, int in, int out) {
  std::vector<float> weight(static_cast<size_t>(in * out)), bias(static_cast<size_t>(out));
  for (float& w : weight) w = static_cast<float>(random.between(-3, 3));
  for (float& b : bias) b = static_cast<float>(random.between(-3, 3));
  Attributes attrs;
  attrs.set("weight_dtype", "float32").set("activation", "none").set("activation_parameter", 0.0);
  attrs.set("weight", weight.data(), RTA_FLOAT32, in * out).set("bias", bias.data(), RTA_FLOAT32, out);
  Owned plan(rta_plan_create(1 << 16), rta_plan_destroy);
  const int x = rta_plan_value(plan.get(), RTA_FLOAT32, 1, in, RTA_INPUT);
  const int y = rta_plan_value(plan.get(), RTA_FLOAT32, 1, out, RTA_OUTPUT);
  if (rta_plan_stage(plan.get(), "linear", float_kernel(), &x, 1, &y, 1, attrs.data(), attrs.size()) < 0 ||
      rta_plan_finish(plan.get(), 0, 0) != 0)
    return {nullptr, rta_plan_destroy};
  return plan;
}

void run(rta_plan* plan, const void* in, void* out, int64_t rows) { rta_plan_run(plan, &in, &out, rows); }

rta_exit of(rta_exit_test test, float threshold, int below = 0) {
  return {test, below, threshold, 2, nullptr, nullptr};
}

void check_rows(Report& report, bool heads) {
  Random random(heads ? 11 : 12);
  const int wide = heads ? 6 : kOut;
  std::vector<Owned> plans, ends;
  rta_cascade_stage stages[kStages] = {};
  for (int i = 0; i < kStages; ++i) {
    const int in = heads && i ? wide : kIn;
    plans.push_back(linear(random, in, wide));
    ends.push_back(linear(random, wide, kOut));
    stages[i] = {
        plans.back().get(), heads ? ends.back().get() : nullptr, in * 4, wide * 4, 0, 0, {},
    };
    report.expect(plans.back() && ends.back(), "plans of a cascade: %s", rta_error());
  }
  stages[0].exit = of(RTA_EXIT_VALUE, 4);
  stages[1].exit = of(RTA_EXIT_ENTROPY, 0.3f, 1);
  rta_cascade* c = rta_cascade_create(stages, kStages, kOut, 1);
  report.expect(c != nullptr, "a cascade: %s", rta_cascade_error());
  if (!c) return;
  Guarded in(kRows * kIn * 4), out(kRows * kOut * 4);
  std::vector<float> x(kRows * kIn);
  int64_t left[kStages] = {};
  for (int step = 0; step < 60; ++step) {
    const int rows = random.between(0, kRows);
    for (float& v : x) v = static_cast<float>(random.between(-2, 2));
    const float* from = in.put(x.data(), static_cast<size_t>(rows * kIn));
    auto* y = static_cast<float*>(out.place(static_cast<size_t>(rows * kOut) * 4));
    if (rows > 1 && step == 0)
      report.expect(rta_cascade_run(c, from, y, rows) == -1, "more rows than there is room for");
    report.expect(rta_cascade_reserve(c, rows) == 0 && rta_cascade_run(c, from, y, rows) == 0, "a run");
    bool same = in.intact() && out.intact();
    for (int r = 0; r < rows; ++r) {
      float features[kOut], answer[kOut];
      const float* given = from + r * kIn;
      int stage = 0;
      for (;; ++stage) {
        float next[kOut];
        run(plans[static_cast<size_t>(stage)].get(), given, next, 1);
        std::memcpy(features, next, sizeof features);
        if (heads) {
          run(ends[static_cast<size_t>(stage)].get(), features, answer, 1);
          given = features;
        } else {
          std::memcpy(answer, features, sizeof answer);
        }
        if (stage + 1 == kStages) break;
        const rta_exit& e = stages[stage].exit;
        float score;
        rta_exit_scores(&e, answer, kOut, 1, &score);
        if (e.below ? score <= e.threshold : score >= e.threshold) break;
      }
      ++left[stage];
      same &= rta_cascade_exits(c)[r] == stage && std::memcmp(answer, y + r * kOut, sizeof answer) == 0;
    }
    report.expect(same, "rows of a cascade, %d of them, heads %d", rows, heads);
    report.integers.add(y, static_cast<size_t>(rows * kOut) * 4);
  }
  report.expect(std::memcmp(left, rta_cascade_counts(c), sizeof left) == 0 && left[0] && left[1] && left[2],
                "rows by stage: %d %d %d", static_cast<int>(left[0]), static_cast<int>(left[1]),
                static_cast<int>(left[2]));
  const int64_t costs[kStages] = {1, 1, int64_t{1} << 60};
  report.expect(rta_cascade_deadline(c, int64_t{1} << 59, costs) == 0, "a deadline");
  rta_cascade_set_threshold(c, 0, std::numeric_limits<float>::infinity());
  rta_cascade_set_threshold(c, 1, -std::numeric_limits<float>::infinity());
  const float* from = in.put(x.data(), kIn);
  auto* y = static_cast<float*>(out.place(kOut * 4));
  report.expect(rta_cascade_run(c, from, y, 1) == 0 && rta_cascade_exits(c)[0] == 1, "a stage that does not fit");
  const rta_step s = rta_cascade_step(c, 1);
  const void* source = from;
  void* target = y;
  report.expect(s.in_bytes == kIn * 4 && s.out_bytes == kOut * 4 && s.step(s.self, &source, &target) == 0, "a step");
  rta_cascade_destroy(c);
}

void check_refusals(Report& report) {
  Random random(3);
  const Owned plan = linear(random, kIn, kOut);
  const rta_cascade_stage good = {plan.get(), nullptr, kIn * 4, kOut * 4, 0, 0, of(RTA_EXIT_CONFIDENCE, 0.5f)};
  const auto refused = [&](const char* what, rta_cascade_stage second, int64_t width = kOut) {
    const rta_cascade_stage both[] = {second, good};
    rta_cascade* made = rta_cascade_create(both, 2, width, 1);
    report.expect(!made && *rta_cascade_error(), "refused: %s", what);
    rta_cascade_destroy(made);
  };
  rta_cascade_stage bad = good;
  bad.plan = nullptr;
  refused("no plan", bad);
  bad = good;
  bad.in_bytes = 4;
  refused("another input", bad);
  bad = good;
  bad.exit = of(RTA_EXIT_VALUE, 0);
  bad.exit.index = kOut;
  refused("a value that there is not", bad);
  bad = good;
  bad.exit = of(RTA_EXIT_CALL, 0);
  refused("no function", bad);
  bad = good;
  bad.head = plan.get();
  refused("one head", bad);
  refused("another answer", good, kOut + 1);
  report.expect(!rta_cascade_create(&good, 0, kOut, 1), "no stages");

  rta_cascade* c = rta_cascade_create(&good, 1, kOut, 1);
  for (const int stage : {-1, 1}) {
    report.expect(rta_cascade_set_threshold(c, stage, 0.5f) == -1 && *rta_cascade_error(),
                  "a threshold of another stage");
    report.expect(rta_cascade_set_plan(c, stage, plan.get(), nullptr) == -1, "a plan of another stage");
  }
  report.expect(rta_cascade_set_plan(c, 0, nullptr, nullptr) == -1, "a stage without a plan");
  report.expect(rta_cascade_set_plan(c, 0, plan.get(), plan.get()) == -1, "a head where no stage has one");
  report.expect(rta_cascade_set_plan(c, 0, plan.get(), nullptr) == 0, "the same plan");
  report.expect(rta_cascade_deadline(c, 100, nullptr) == -1, "a deadline without costs");
  rta_cascade_destroy(c);
}

// A cascade that was not made.
void check_none(Report& report) {
  const int64_t cost_ns = 1;
  float x[kIn] = {}, y[kOut];
  report.expect(rta_cascade_reserve(nullptr, 1) == -1 && std::strstr(rta_cascade_error(), "NULL"), "reserve");
  report.expect(rta_cascade_run(nullptr, x, y, 1) == -1 && rta_cascade_run_through(nullptr, x, y, 1) == -1, "run");
  report.expect(!rta_cascade_exits(nullptr) && !rta_cascade_counts(nullptr), "what there was");
  report.expect(rta_cascade_set_plan(nullptr, 0, nullptr, nullptr) == -1, "set_plan");
  report.expect(rta_cascade_set_threshold(nullptr, 0, 0.5f) == -1, "set_threshold");
  report.expect(rta_cascade_deadline(nullptr, 1, &cost_ns) == -1 && rta_cascade_late(nullptr) == -1, "a deadline");
  report.expect(rta_cascade_state_bytes(nullptr) == 0 && rta_cascade_load_state(nullptr, x) == -1, "states");
  rta_cascade_save_state(nullptr, x);
  rta_cascade_reset(nullptr);
  report.expect(rta_cascade_prefault(nullptr) == -1 && !rta_cascade_step(nullptr, 1).step, "a step");
  rta_cascade_destroy(nullptr);
}

// At every width, at the end of memory; among numbers of all sizes.
void check_scores(Report& report) {
  Random random(5);
  Guarded memory(70 * 4);
  for (int width = 1; width <= 70; ++width)
    for (int step = 0; step < 30; ++step) {
      std::vector<float> y(static_cast<size_t>(width));
      for (float& v : y)
        v = random.normal() * std::pow(10.0f, static_cast<float>(random.between(-20, step % 3 ? 2 : 38)));
      if (step % 10 == 9) y[static_cast<size_t>(random.between(0, width - 1))] = step % 20 == 9 ? NAN : INFINITY;
      const float* at = memory.put(y.data(), y.size());
      for (int test = RTA_EXIT_CONFIDENCE; test <= RTA_EXIT_VALUE; ++test) {
        rta_exit e = of(static_cast<rta_exit_test>(test), 0);
        e.index = width - 1;
        float score;
        report.expect(rta_exit_scores(&e, at, width, 1, &score) == 0, "a score");
        if (step % 10 == 9)
          report.expect(std::isnan(score), "test %d of %d values with one that is not finite: %g", test, width,
                        static_cast<double>(score));
        else
          report.integers.add(&score, 4);
      }
    }
}

}  // namespace

void check_cascade(Report& report) {
  check_rows(report, false);
  check_rows(report, true);
  check_refusals(report);
  check_none(report);
  check_scores(report);
}

}  // namespace check
