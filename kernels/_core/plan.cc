// A plan's call. Samples go through in blocks, all stages for one block before the next, so that whatever lies between
// stages stays in the first-level cache however large the batch is.
#include "_core/plan.h"

#include <algorithm>
#include <cstring>

using namespace rta;

// int8 outside, q + 128 in uint8_t inside.
static void flip_sign(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) to[r * to_pitch + i] = static_cast<char>(from[r * from_pitch + i] ^ 0x80);
}

// Points values that are not the plan's own at the caller's memory, and states at those of the block's samples.
void rta_plan::place(Lane& lane, const void* const* in, void* const* out, int64_t first, int64_t samples) const {
  char** at = lane.at.data();
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
  if (some)
    place_states(lane, first, samples);
  else
    for (size_t i = 0; i < states.size(); ++i) at[states[i]] = held[i] + first * sample_bytes(states[i]);
}

const char* rta_plan::check(const void* const* in, int64_t samples) {
  Lane& lane = lanes[0];
  const int64_t most = some ? 1 : block;  // one by one, states of chosen streams are seen where they lie
  for (int64_t first = 0; first < samples; first += most) {
    const int64_t now = std::min(most, samples - first);
    place(lane, in, nullptr, first, now);
    const Run run{lane.at.data(), now, lane.nan_marks.data(), lane.scratch, tick};
    for (const auto& stage : stages)
      if (stage->checks())
        if (const char* reason = stage->check(run)) return reason;
  }
  return nullptr;
}

void rta_plan::run(const void* const* in, void* const* out, int64_t samples) {
  if (shares())
    run_threaded(in, out, samples);
  else
    for (int64_t first = 0; first < samples; first += block)
      run_block(lanes[0], in, out, first, std::min(block, samples - first), nullptr, Unmarked{});
  ++tick;
}

// Of the call that has just run. Every stage is asked, so that none remembers it into the next call.
const char* rta_plan::refusal() const {
  const char* first = nullptr;
  for (const auto& stage : stages)
    if (const char* reason = stage->refuses() ? stage->refusal() : nullptr) first = first ? first : reason;
  return first;
}

// cut: into how many parts each stage goes, or nullptr for one. mark: called with 0 when the inputs are in place, with
// i + 1 after stage i, and with the number after the last once the outputs are handed over.
template <class Mark>
void rta_plan::run_block(Lane& lane, const void* const* in, void* const* out, int64_t first, int64_t samples,
                         const Cut* cut, Mark&& mark) {
  place(lane, in, out, first, samples);
  if (marks_samples) std::memset(lane.nan_marks.data(), 0, static_cast<size_t>(samples) * sizeof(float));
  mark(0);

  if (uneven)
    for (int64_t s = 0; s < samples; ++s) lane.ticks[s] = tick - behind[sample_at(first + s)];
  const int64_t* ticks = uneven ? lane.ticks.data() : nullptr;
  const Run run{lane.at.data(), samples, lane.nan_marks.data(), lane.scratch, tick, weights_exceed_l2(), ticks};
  if (!cut)
    for (size_t i = 0; i < stages.size(); ++i) {
      stages[i]->run(run);
      mark(i + 1);
    }
  else
    for (size_t i = 0; i < stages.size(); ++i) {
      run_stage(*stages[i], run, cut->parts[i], cut->forks[i]);
      mark(i + 1);
    }

  for (size_t i = 0; i < outputs.size(); ++i) {
    const Value& v = values[outputs[i]];
    if (!staged(outputs[i])) continue;
    const int64_t bytes = v.width * element_bytes(v.dtype);
    char* start = static_cast<char*>(out[i]) + first * v.steps * bytes;
    flip_sign(start, bytes, lane.at[outputs[i]], v.pitch, samples * v.steps, v.width);
  }
  if (marks_samples) propagate_nan(lane, first, samples);
  if (some) return_states(lane, first, samples);
  mark(stages.size() + 1);
}

template void rta_plan::run_block(Lane&, const void* const*, void* const*, int64_t, int64_t, const Cut*, Unmarked&&);
template void rta_plan::run_block(Lane&, const void* const*, void* const*, int64_t, int64_t, const Cut*, Marks&);

// A sample that was marked now is so for as many steps as its past is read. What its states hold that is no number
// would mark it anew in each of them.
void rta_plan::settle(const Lane& lane, int64_t s) const {
  for (int id : states) {
    const Value& v = values[id];
    if (v.dtype != RTA_FLOAT32) continue;
    for (int64_t r = 0; r < v.steps; ++r) {
      float* row = reinterpret_cast<float*>(lane.at[id] + s * sample_bytes(id) + r * v.pitch);
      for (int64_t c = 0; c < v.width; ++c)
        if (!(row[c] - row[c] == 0.0f)) row[c] = 0.0f;
    }
  }
}

// Float outputs of a sample that was marked, now or within the memory of its states, become NaN.
void rta_plan::propagate_nan(Lane& lane, int64_t first, int64_t samples) {
  for (int64_t s = 0; s < samples; ++s) {
    bool bad = lane.nan_marks[s] != 0.0f;
    if (!states.empty()) {
      int64_t& left = nonfinite[sample_at(first + s)];
      if (bad) {
        left = memory;
        if (memory >= 0) settle(lane, s);
      } else if (left != 0)
        bad = true;
      if (!bad) continue;
      if (left > 0 && lane.nan_marks[s] == 0.0f) --left;
    }
    if (!bad) continue;
    for (int id : outputs) {
      const Value& v = values[id];
      if (v.dtype != RTA_FLOAT32) continue;
      float* row = reinterpret_cast<float*>(lane.at[id] + s * sample_bytes(id));
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
  for (int64_t s = first; s < first + count && s < static_cast<int64_t>(nonfinite.size()); ++s) nonfinite[s] = 0;
}
