// A plan: values, stages, and the one call that runs them. Rows go through in blocks, all stages for one block before
// the next, so that whatever lies between stages stays in the first-level cache however large the batch is.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "stage.h"

using namespace rta;

namespace {

thread_local std::string last_error;

// Runs f; an exception becomes rta_error() and the value for failure.
template <class F, class T>
T guarded(T failure, F f) {
  try {
    return f();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error in the native core";
  }
  return failure;
}

int64_t element_bytes(rta_dtype dtype) { return dtype == RTA_FLOAT32 ? 4 : 1; }

// int8 outside, q + 128 in uint8_t inside.
void flip_sign(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) to[r * to_pitch + i] = static_cast<char>(from[r * from_pitch + i] ^ 0x80);
}

}  // namespace

struct rta_plan {
  explicit rta_plan(size_t weight_bytes) : weights(weight_bytes) {}

  Arena weights;
  std::unique_ptr<Arena> scratch;
  std::vector<Value> values;
  std::vector<rta_role> roles;
  std::vector<int> inputs, outputs;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<char*> at;
  bool marks_rows = false;  // holds a stage that may poison a row
  bool finished = false;
  float poison[kBlockRows];

  bool staged(int id) const { return roles[id] == RTA_INNER || values[id].dtype == RTA_INT8; }
  void run_block(const void* const* in, void* const* out, int64_t first, int64_t rows);
};

void rta_plan::run_block(const void* const* in, void* const* out, int64_t first, int64_t rows) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& v = values[inputs[i]];
    char* start = static_cast<char*>(const_cast<void*>(in[i])) + first * v.width * element_bytes(v.dtype);
    if (staged(inputs[i]))
      flip_sign(at[inputs[i]], v.pitch, start, v.width, rows, v.width);
    else
      at[inputs[i]] = start;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& v = values[outputs[i]];
    if (!staged(outputs[i])) at[outputs[i]] = static_cast<char*>(out[i]) + first * v.pitch;
  }
  if (marks_rows) std::memset(poison, 0, static_cast<size_t>(rows) * sizeof(float));

  const Run run{at.data(), rows, poison};
  for (const auto& stage : stages) stage->run(run);

  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& v = values[outputs[i]];
    char* start = static_cast<char*>(out[i]) + first * v.width * element_bytes(v.dtype);
    if (staged(outputs[i])) flip_sign(start, v.width, at[outputs[i]], v.pitch, rows, v.width);
  }
  if (!marks_rows) return;
  for (int64_t r = 0; r < rows; ++r) {
    if (poison[r] == 0.0f) continue;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Value& v = values[outputs[i]];
      if (v.dtype != RTA_FLOAT32) continue;
      float* row = reinterpret_cast<float*>(at[outputs[i]] + r * v.pitch);
      for (int64_t c = 0; c < v.width; ++c) row[c] = __builtin_nanf("");
    }
  }
}

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API const char* rta_error(void) { return last_error.c_str(); }

RTA_API rta_plan* rta_plan_create(size_t weight_bytes) {
  return guarded<>(static_cast<rta_plan*>(nullptr), [&] { return new rta_plan(weight_bytes); });
}

RTA_API void rta_plan_destroy(rta_plan* plan) { delete plan; }

RTA_API int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t width, rta_role role) {
  return guarded(-1, [&] {
    if (plan->finished) fail("the plan is finished");
    if (width < 0 || width > (int64_t{1} << 31)) fail("a value has width %lld", static_cast<long long>(width));
    const int id = static_cast<int>(plan->values.size());
    const int64_t bytes = width * element_bytes(dtype);
    plan->roles.push_back(role);
    plan->values.push_back({dtype, width, 0});
    plan->values.back().pitch = plan->staged(id) ? (bytes + 63) / 64 * 64 : bytes;
    if (role == RTA_INPUT) plan->inputs.push_back(id);
    if (role == RTA_OUTPUT) plan->outputs.push_back(id);
    return id;
  });
}

RTA_API int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel_name, const int* inputs, int input_count,
                           const int* outputs, int output_count, const rta_attr* attrs, int attr_count) {
  return guarded(-1, [&] {
    const Kernel* kernel = find_kernel(op, kernel_name);
    if (!kernel) fail("there is no kernel %s/%s in the native core", op, kernel_name);
    if (kernel->isa > isa_level()) fail("%s/%s needs a newer CPU than this or is ruled out", op, kernel_name);
    const int values = static_cast<int>(plan->values.size());
    for (int i = 0; i < input_count; ++i)
      if (inputs[i] < 0 || inputs[i] >= values) fail("%s: input %d is no value of the plan", op, inputs[i]);
    for (int i = 0; i < output_count; ++i)
      if (outputs[i] < 0 || outputs[i] >= values || plan->roles[outputs[i]] == RTA_INPUT)
        fail("%s: output %d is no value that can be written", op, outputs[i]);
    if (plan->finished || input_count < 1 || output_count < 1) fail("%s: a stage needs inputs and outputs", op);
    const StageSpec spec{plan->values.data(),      inputs,        input_count, outputs, output_count,
                         Attrs(attrs, attr_count), &plan->weights};
    plan->stages.emplace_back(kernel->create(spec));
    plan->marks_rows |= plan->stages.back()->marks_rows();
    return 0;
  });
}

RTA_API int rta_plan_finish(rta_plan* plan) {
  return guarded(-1, [&] {
    size_t bytes = 0;
    for (size_t id = 0; id < plan->values.size(); ++id)
      if (plan->staged(static_cast<int>(id))) bytes += static_cast<size_t>(plan->values[id].pitch * kBlockRows);
    plan->scratch = std::make_unique<Arena>(bytes);
    plan->at.assign(plan->values.size(), nullptr);
    for (size_t id = 0; id < plan->values.size(); ++id) {
      if (!plan->staged(static_cast<int>(id))) continue;
      const size_t size = static_cast<size_t>(plan->values[id].pitch * kBlockRows);
      plan->at[id] = static_cast<char*>(plan->scratch->take(size));
      std::memset(plan->at[id], 0, size);  // the pages are there before the first call
    }
    plan->finished = true;
    return 0;
  });
}

RTA_API void rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t rows) {
  for (int64_t first = 0; first < rows; first += kBlockRows)
    plan->run_block(inputs, outputs, first, rows - first < kBlockRows ? rows - first : kBlockRows);
}

RTA_API size_t rta_plan_packed_bytes(const rta_plan* plan) { return plan->weights.used(); }
RTA_API size_t rta_plan_scratch_bytes(const rta_plan* plan) { return plan->scratch ? plan->scratch->used() : 0; }
}
