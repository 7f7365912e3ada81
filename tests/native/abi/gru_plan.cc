#include "native/abi/gru_plan.h"

#include <cstring>
#include <vector>

namespace check {
namespace {

const char* kernel_of(const char* op, const Attributes& attrs) {
  for (int i = 0; i < rta_kernel_count(); ++i) {
    const rta_kernel k = rta_kernel_at(i);
    if (std::strcmp(k.op, op) == 0 && !rta_kernel_reject(op, k.name, attrs.data(), attrs.size())) return k.name;
  }
  return nullptr;
}

}  // namespace

Plan gru_plan(Random& random, int64_t streams, int64_t inputs, int64_t units, int threads) {
  const auto numbers = [&](int64_t count) {
    std::vector<float> w(static_cast<size_t>(count));
    for (float& v : w) v = random.normal();
    return w;
  };
  const auto ih = numbers(3 * units * inputs), hh = numbers(3 * units * units), bias = numbers(3 * units),
             bias_n = numbers(units);
  Attributes a;
  a.set("inputs", inputs).set("hidden", units).set("layers", int64_t{1}).set("directions", int64_t{1});
  a.set("time", int64_t{1}).set("batch", int64_t{1}).set("batch_first", int64_t{1}).set("last_only", int64_t{1});
  a.set("weight_dtype", "float32");
  a.set("weight_ih_l0", ih.data(), RTA_FLOAT32, 3 * units * inputs);
  a.set("weight_hh_l0", hh.data(), RTA_FLOAT32, 3 * units * units);
  a.set("bias_l0", bias.data(), RTA_FLOAT32, 3 * units).set("bias_n_l0", bias_n.data(), RTA_FLOAT32, units);
  Plan plan(rta_plan_create(1 << 20), rta_plan_destroy);
  rta_plan_threads(plan.get(), threads);
  const int x = rta_plan_value(plan.get(), RTA_FLOAT32, 1, inputs, RTA_INPUT);
  const int h = rta_plan_value(plan.get(), RTA_FLOAT32, 1, units, RTA_STATE);
  const int y = rta_plan_value(plan.get(), RTA_FLOAT32, 1, units, RTA_OUTPUT);
  const int in[] = {x, h}, out[] = {y, h};
  const char* kernel = kernel_of("gru", a);
  if (!kernel || rta_plan_stage(plan.get(), "gru", kernel, in, 2, out, 2, a.data(), a.size()) < 0 ||
      rta_plan_finish(plan.get(), streams, -1) != 0)
    return {nullptr, rta_plan_destroy};
  return plan;
}

}  // namespace check
