// A step that is refused: which tensor, which number, and what the model takes.
#include "arguments.h"

#include <cstdarg>
#include <cstdio>

namespace rta {
namespace {

__attribute__((format(printf, 1, 2))) int step_refused(const char* format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  last_code() = RTA_BAD_ARGUMENT;
  last_error() = text;
  return -1;
}

// The first tensor that has elements and no address, or nullptr.
template <class Pointer>
const rta_tensor* missing(const std::vector<rta_tensor>& tensors, const Pointer* at, int64_t samples) {
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!at[i] && samples && tensors[i].sample_elements) return &tensors[i];
  return nullptr;
}

}  // namespace

int check_step(const rta_model* model, const void* const* in, void* const* out, int64_t samples) {
  if (!model) return step_refused(kNoModel);
  if (!in || !out) return step_refused("%s is NULL; expected an array of addresses", in ? "out" : "in");
  if (const rta_tensor* tensor = missing(model->tensors[0], in, samples))
    return step_refused("input %s of %s has no address", tensor->name, model->name);
  if (const rta_tensor* tensor = missing(model->tensors[1], out, samples))
    return step_refused("output %s of %s has no address", tensor->name, model->name);
  return 0;
}

int refuse_samples(const rta_model* model, int64_t samples) {
  const auto number = [](int64_t of) { return static_cast<long long>(of); };
  if (model->streams)
    return step_refused("a step of %lld samples; %s has %lld streams (rta_model_step_some takes fewer)",
                        number(samples), model->name, number(model->streams));
  if (model->each == 0) return step_refused("a step of %lld samples; %s takes 1", number(samples), model->name);
  const char* times = model->each == 1 ? "" : " times the other dimensions of samples";
  if (model->batch_most < 0)
    return step_refused("a step of %lld samples; %s takes batches of %lld or more%s", number(samples), model->name,
                        number(model->batch_least), times);
  return step_refused("a step of %lld samples; %s takes batches of %lld to %lld%s", number(samples), model->name,
                      number(model->batch_least), number(model->batch_most), times);
}

int refuse_streams(const rta_model* model) {
  return step_refused("streams is NULL; expected the numbers of streams of %s", model->name);
}

}  // namespace rta
