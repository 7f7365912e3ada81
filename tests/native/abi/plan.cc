// rta_plan.h where there is no plan, as after a create that failed: every function says so, counts nothing or does
// nothing.
#include <cstring>

#include "native/abi/gru_plan.h"

namespace check {
namespace {

void check_none(Report& report) {
  const void* in = nullptr;
  void* out = nullptr;
  int64_t numbers[8] = {};
  const int id = 0;
  const Plan other(rta_plan_create(64), rta_plan_destroy);
  const auto said = [&](const char* what, double code) {
    report.expect(code == -1.0 && std::strstr(rta_error(), "NULL"), "%s gives %g: %s", what, code, rta_error());
    rta_plan_threads(other.get(), 0);  // its reason takes the place of this one
  };
  said("value", rta_plan_value(nullptr, RTA_FLOAT32, 1, 1, RTA_INPUT));
  said("stage", rta_plan_stage(nullptr, "linear", "cpu", &id, 1, &id, 1, nullptr, 0));
  said("threads", rta_plan_threads(nullptr, 1));
  said("finish", rta_plan_finish(nullptr, 0, 0));
  said("run", rta_plan_run(nullptr, &in, &out, 1));
  said("run_some", rta_plan_run_some(nullptr, &in, &out, 1, numbers));
  said("profile", rta_plan_profile(nullptr, &in, &out, 1, 1, numbers));
  said("offer", rta_plan_offer(nullptr, nullptr));
  said("load_state", rta_plan_load_state(nullptr, numbers));
  said("save_stream", rta_plan_save_stream(nullptr, 0, numbers));
  said("load_stream", rta_plan_load_stream(nullptr, 0, numbers));
  said("prefault", static_cast<double>(rta_plan_prefault(nullptr)));
  said("lock", rta_plan_lock(nullptr));
  report.expect(rta_plan_pending(nullptr) == 0 && rta_plan_withdraw(nullptr, nullptr) == 0, "an offer");
  report.expect(rta_plan_parts(nullptr, -1, 1) == 0 && rta_plan_running_threads(nullptr) == 0, "parts");
  report.expect(rta_plan_state_bytes(nullptr) == 0 && rta_plan_stream_bytes(nullptr) == 0, "bytes of states");
  report.expect(rta_plan_packed_bytes(nullptr) == 0 && rta_plan_scratch_bytes(nullptr) == 0, "bytes");
  rta_plan_reset(nullptr, 0, 1);
  rta_plan_save_state(nullptr, numbers);
  rta_plan_destroy(nullptr);
}

void check_offers(Report& report) {
  Random random(9);
  const Plan plan = gru_plan(random, 2, 3, 4);
  report.expect(plan != nullptr, "a plan: %s", rta_error());
  if (!plan) return;
  report.expect(rta_plan_offer(plan.get(), nullptr) == -1 && rta_plan_pending(plan.get()) == 0, "an offer of nothing");
  report.expect(rta_plan_withdraw(plan.get(), nullptr) == 0, "nothing taken back");
}

}  // namespace

void check_plan(Report& report) {
  running("plan", "", "without a plan");
  check_none(report);
  running("plan", "", "offers of nothing");
  check_offers(report);
  report.cases += 2;
}

}  // namespace check
