// A model from a file as a step of a loop.
#include <algorithm>

#include "_system/dtypes.h"
#include "model/open_model.h"
#include "realtime/loop.h"

extern "C" __attribute__((visibility("default"))) int rta_step_of_model(rta_model* model, int64_t batch,
                                                                        rta_plan_step* kept, rta_step* step,
                                                                        rta_step_ports* ports) {
  using rta_realtime::loop_error;
  const auto &in = model->tensors[0], &out = model->tensors[1];
  if (in.size() > RTA_LOOP_PORTS || out.size() > RTA_LOOP_PORTS || in.empty() || out.empty())
    return loop_error("%s has %zu inputs and %zu outputs; 1 to %d", model->name, in.size(), out.size(), RTA_LOOP_PORTS);
  const int64_t least = std::max<int64_t>(model->batch_least, 1);
  const int64_t samples = model->streams ? model->streams : model->each ? model->each * (batch > 0 ? batch : least) : 1;
  if (batch < 0 || !model->takes(samples) || (batch > 0 && model->streams && batch != model->streams))
    return loop_error("%s takes no batch of %lld", model->name, static_cast<long long>(batch));
  *kept = {model->plan, samples, model->streams};
  ports->inputs = static_cast<int>(in.size());
  ports->outputs = static_cast<int>(out.size());
  const auto bytes = [samples](const rta_tensor& t) {
    return static_cast<size_t>(t.sample_elements * samples * rta::element_bytes(t.dtype));
  };
  std::transform(in.begin(), in.end(), ports->in_bytes, bytes);
  std::transform(out.begin(), out.end(), ports->out_bytes, bytes);
  *step = rta_step_of_plan(kept, ports->in_bytes[0], ports->out_bytes[0]);
  return 0;
}
