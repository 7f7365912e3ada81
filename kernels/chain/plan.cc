// A plan: values, stages, and the one call that runs them. Samples go through in blocks, all stages for one block
// before the next, so that whatever lies between stages stays in the first-level cache however large the batch is.
#include <algorithm>
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

int64_t element_bytes(rta_dtype dtype) { return dtype == RTA_FLOAT32 ? 4 : dtype == RTA_INT64 ? 8 : 1; }

// int8 outside, q + 128 in uint8_t inside.
void flip_sign(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) to[r * to_pitch + i] = static_cast<char>(from[r * from_pitch + i] ^ 0x80);
}

}  // namespace

struct rta_plan {
  explicit rta_plan(size_t weight_bytes) : weights(weight_bytes) {}

  Arena weights;
  std::unique_ptr<Arena> scratch, state;
  std::vector<Value> values;
  std::vector<rta_role> roles;
  std::vector<int> inputs, outputs, states;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<char*> at;        // by value: its first row in the running block
  std::vector<char*> held;      // by state, in the order of `states`: its first row of all
  std::vector<float> poison;    // by sample of a block
  std::vector<int64_t> spoilt;  // by sample: calls for which its states hold what int8 could not
  size_t stage_scratch = 0;
  char* shared_scratch = nullptr;
  bool marks_samples = false, checks = false, finished = false;
  int64_t block = 1, memory = 0, tick = 0, state_samples = 0;

  bool staged(int id) const { return roles[id] == RTA_INNER || roles[id] == RTA_STATE || values[id].dtype == RTA_INT8; }
  int64_t sample_bytes(int id) const { return values[id].pitch * values[id].steps; }
  void place(const void* const* in, void* const* out, int64_t first, int64_t samples);
  const char* check(const void* const* in, int64_t samples);
  void run_block(const void* const* in, void* const* out, int64_t first, int64_t samples);
  void spoil(int64_t first, int64_t samples);
  void reset(int64_t first, int64_t count);
};

// Points values that are not the plan's own at the caller's memory, and states at those of the block's samples.
void rta_plan::place(const void* const* in, void* const* out, int64_t first, int64_t samples) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& v = values[inputs[i]];
    const int64_t bytes = v.width * element_bytes(v.dtype);
    char* start = static_cast<char*>(const_cast<void*>(in[i])) + first * v.steps * bytes;
    if (staged(inputs[i]))
      flip_sign(at[inputs[i]], v.pitch, start, bytes, samples * v.steps, v.width);
    else
      at[inputs[i]] = start;
  }
  if (out)
    for (size_t i = 0; i < outputs.size(); ++i)
      if (!staged(outputs[i])) at[outputs[i]] = static_cast<char*>(out[i]) + first * sample_bytes(outputs[i]);
  for (size_t i = 0; i < states.size(); ++i) at[states[i]] = held[i] + first * sample_bytes(states[i]);
}

const char* rta_plan::check(const void* const* in, int64_t samples) {
  for (int64_t first = 0; first < samples; first += block) {
    const int64_t now = std::min(block, samples - first);
    place(in, nullptr, first, now);
    const Run run{at.data(), now, poison.data(), shared_scratch, tick};
    for (const auto& stage : stages)
      if (stage->checks())
        if (const char* reason = stage->check(run)) return reason;
  }
  return nullptr;
}

void rta_plan::run_block(const void* const* in, void* const* out, int64_t first, int64_t samples) {
  place(in, out, first, samples);
  if (marks_samples) std::memset(poison.data(), 0, static_cast<size_t>(samples) * sizeof(float));

  const Run run{at.data(), samples, poison.data(), shared_scratch, tick};
  for (const auto& stage : stages) stage->run(run);

  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& v = values[outputs[i]];
    if (!staged(outputs[i])) continue;
    const int64_t bytes = v.width * element_bytes(v.dtype);
    char* start = static_cast<char*>(out[i]) + first * v.steps * bytes;
    flip_sign(start, bytes, at[outputs[i]], v.pitch, samples * v.steps, v.width);
  }
  if (marks_samples) spoil(first, samples);
}

// Float outputs of a sample that was marked, now or within the memory of its states, become NaN.
void rta_plan::spoil(int64_t first, int64_t samples) {
  for (int64_t s = 0; s < samples; ++s) {
    bool bad = poison[s] != 0.0f;
    if (!states.empty()) {
      int64_t& left = spoilt[first + s];
      if (bad)
        left = memory;
      else if (left != 0)
        bad = true;
      if (!bad) continue;
      if (left > 0 && poison[s] == 0.0f) --left;
    }
    if (!bad) continue;
    for (int id : outputs) {
      const Value& v = values[id];
      if (v.dtype != RTA_FLOAT32) continue;
      float* row = reinterpret_cast<float*>(at[id] + s * sample_bytes(id));
      for (int64_t c = 0; c < v.steps * v.width; ++c) row[c] = __builtin_nanf("");
    }
  }
}

void rta_plan::reset(int64_t first, int64_t count) {
  for (size_t i = 0; i < states.size(); ++i)
    for (int64_t s = first; s < first + count; ++s) {
      char* start = held[i] + s * sample_bytes(states[i]);
      std::memset(start, 0, static_cast<size_t>(sample_bytes(states[i])));
      for (const auto& stage : stages) stage->start(states[i], start);
    }
  for (int64_t s = first; s < first + count && s < static_cast<int64_t>(spoilt.size()); ++s) spoilt[s] = 0;
}

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API const char* rta_error(void) { return last_error.c_str(); }

RTA_API rta_plan* rta_plan_create(size_t weight_bytes) {
  return guarded<>(static_cast<rta_plan*>(nullptr), [&] { return new rta_plan(weight_bytes); });
}

RTA_API void rta_plan_destroy(rta_plan* plan) { delete plan; }

RTA_API int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {
  return guarded(-1, [&] {
    if (plan->finished) fail("the plan is finished");
    if (width < 0 || steps < 1 || width > (int64_t{1} << 31) || steps > (int64_t{1} << 31))
      fail("a value has %lld steps of width %lld", static_cast<long long>(steps), static_cast<long long>(width));
    if (dtype != RTA_FLOAT32 && dtype != RTA_INT8 && (dtype != RTA_INT64 || role != RTA_INPUT))
      fail("a value has dtype %d, expected float32, int8, or int64 for an input", dtype);
    const int id = static_cast<int>(plan->values.size());
    const int64_t bytes = width * element_bytes(dtype);
    plan->roles.push_back(role);
    plan->values.push_back({dtype, steps, width, 0});
    plan->values.back().pitch = plan->staged(id) ? (bytes + 63) / 64 * 64 : bytes;
    if (role == RTA_INPUT) plan->inputs.push_back(id);
    if (role == RTA_OUTPUT) plan->outputs.push_back(id);
    if (role == RTA_STATE) plan->states.push_back(id);
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
    const StageSpec spec{plan->values.data(),      inputs,         input_count,         outputs, output_count,
                         Attrs(attrs, attr_count), &plan->weights, &plan->stage_scratch};
    plan->stages.emplace_back(kernel->create(spec));
    plan->marks_samples |= plan->stages.back()->marks_samples();
    plan->checks |= plan->stages.back()->checks();
    return 0;
  });
}

RTA_API int rta_plan_finish(rta_plan* plan, int64_t state_samples, int64_t memory) {
  return guarded(-1, [&] {
    if (plan->finished) fail("the plan is finished");
    if (plan->states.empty() ? state_samples != 0 : state_samples < 1)
      fail("a plan with %zu states is made for %lld samples", plan->states.size(),
           static_cast<long long>(state_samples));
    int64_t steps = 1;
    for (const Value& v : plan->values) steps = std::max(steps, v.steps);
    plan->block = std::max(int64_t{1}, kBlockRows / steps);
    plan->memory = memory;
    plan->state_samples = state_samples;
    plan->poison.assign(static_cast<size_t>(plan->block), 0.0f);
    plan->spoilt.assign(static_cast<size_t>(state_samples), 0);

    size_t bytes = (plan->stage_scratch + 63) / 64 * 64, kept = 0;
    for (size_t id = 0; id < plan->values.size(); ++id) {
      const int i = static_cast<int>(id);
      if (plan->roles[id] == RTA_STATE)
        kept += static_cast<size_t>(plan->sample_bytes(i) * state_samples);
      else if (plan->staged(i))
        bytes += static_cast<size_t>(plan->sample_bytes(i) * plan->block);
    }
    plan->scratch = std::make_unique<Arena>(bytes);
    plan->state = std::make_unique<Arena>(kept);
    plan->at.assign(plan->values.size(), nullptr);
    const auto take = [](Arena& arena, int64_t size) {
      char* start = static_cast<char*>(arena.take(static_cast<size_t>(size)));
      std::memset(start, 0, static_cast<size_t>(size));  // the pages are there before the first call
      return start;
    };
    for (size_t id = 0; id < plan->values.size(); ++id) {
      const int i = static_cast<int>(id);
      if (plan->roles[id] == RTA_STATE)
        plan->held.push_back(take(*plan->state, plan->sample_bytes(i) * state_samples));
      else if (plan->staged(i))
        plan->at[id] = take(*plan->scratch, plan->sample_bytes(i) * plan->block);
    }
    if (plan->stage_scratch) plan->shared_scratch = take(*plan->scratch, static_cast<int64_t>(plan->stage_scratch));
    plan->reset(0, state_samples);
    plan->finished = true;
    return 0;
  });
}

RTA_API int rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples) {
  if (plan->checks) {
    if (const char* reason = plan->check(inputs, samples)) {
      last_error = reason;
      return -1;
    }
  }
  for (int64_t first = 0; first < samples; first += plan->block)
    plan->run_block(inputs, outputs, first, std::min(plan->block, samples - first));
  ++plan->tick;
  return 0;
}

RTA_API void rta_plan_reset(rta_plan* plan, int64_t first, int64_t count) { plan->reset(first, count); }

// The states, then how long each sample stays spoilt, then the tick: a ring buffer means nothing without it.
RTA_API size_t rta_plan_state_bytes(const rta_plan* plan) {
  return plan->state->used() + plan->spoilt.size() * sizeof(int64_t) + sizeof plan->tick;
}

RTA_API void rta_plan_save_state(const rta_plan* plan, void* to) {
  char* at = static_cast<char*>(to);
  const size_t held = plan->state->used(), spoilt = plan->spoilt.size() * sizeof(int64_t);
  if (held) std::memcpy(at, plan->held[0], held);  // states lie back to back
  if (spoilt) std::memcpy(at + held, plan->spoilt.data(), spoilt);
  std::memcpy(at + held + spoilt, &plan->tick, sizeof plan->tick);
}

RTA_API void rta_plan_load_state(rta_plan* plan, const void* from) {
  const char* at = static_cast<const char*>(from);
  const size_t held = plan->state->used(), spoilt = plan->spoilt.size() * sizeof(int64_t);
  if (held) std::memcpy(plan->held[0], at, held);
  if (spoilt) std::memcpy(plan->spoilt.data(), at + held, spoilt);
  std::memcpy(&plan->tick, at + held + spoilt, sizeof plan->tick);
}

RTA_API size_t rta_plan_packed_bytes(const rta_plan* plan) { return plan->weights.used(); }
RTA_API size_t rta_plan_scratch_bytes(const rta_plan* plan) {
  return plan->scratch ? plan->scratch->used() + plan->state->used() : 0;
}
}
