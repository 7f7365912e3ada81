// A model from a file as a step of a loop.
#include <algorithm>

#include "_system/dtypes.h"
#include "model/arguments.h"
#include "model/open_model.h"
#include "realtime/loop.h"

extern "C" __attribute__((visibility("default"))) int rta_step_of_model(rta_model* model, int64_t batch,
                                                                        rta_plan_step* kept, rta_step* step,
                                                                        rta_step_ports* ports) {
  using rta_realtime::loop_error;
  if (!model) return loop_error(rta::kNoModel);
  if (!kept || !step || !ports) return loop_error("kept, step or ports is NULL; all of them are filled");
  const auto &in = model->tensors[0], &out = model->tensors[1];
  if (in.size() > RTA_LOOP_PORTS || out.size() > RTA_LOOP_PORTS || in.empty() || out.empty())
    return loop_error("%s has %zu inputs and %zu outputs; 1 to %d", model->name, in.size(), out.size(), RTA_LOOP_PORTS);
  const int64_t least = std::max<int64_t>(model->batch_least, 1);
  int64_t samples = model->streams ? model->streams : 1;
  const bool counted = !model->streams && model->each;
  if (batch < 0 || (counted && __builtin_mul_overflow(model->each, batch > 0 ? batch : least, &samples)) ||
      !model->takes(samples) || (batch > 0 && model->streams && batch != model->streams))
    return loop_error("%s takes no batch of %lld", model->name, static_cast<long long>(batch));
  *kept = {model->plan, samples, model->streams};
  ports->inputs = static_cast<int>(in.size());
  ports->outputs = static_cast<int>(out.size());
  bool fits = true;
  const auto bytes = [samples, &fits](const rta_tensor& t) {
    int64_t size = 0;
    fits &= !__builtin_mul_overflow(t.sample_elements * rta::element_bytes(t.dtype), samples, &size);
    return static_cast<size_t>(size);
  };
  std::transform(in.begin(), in.end(), ports->in_bytes, bytes);
  std::transform(out.begin(), out.end(), ports->out_bytes, bytes);
  if (!fits)
    return loop_error("a batch of %lld of %s is larger than any memory", static_cast<long long>(batch), model->name);
  *step = rta_step_of_plan(kept, ports->in_bytes[0], ports->out_bytes[0]);
  return 0;
}
