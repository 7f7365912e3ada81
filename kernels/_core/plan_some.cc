// A step of some of the streams of a plan: their states are brought together for a block of them, and put back after
// it. Each stream has its own number of steps, for rings stand where the stream is and not where the plan is.
#include <cstring>

#include "_core/plan.h"

using namespace rta;

const char* rta_plan::refuse_list(int64_t samples, const int64_t* list) {
  const auto most = static_cast<int64_t>(nonfinite.size());
  if (states.empty()) return "a plan without states has no streams to choose from";
  if (samples < 0 || samples > most) return "more streams than there are";
  ++lists;
  for (int64_t i = 0; i < samples; ++i) {
    if (list[i] < 0 || list[i] >= most) return "a stream that there is not";
    if (listed[list[i]] == lists) return "a stream twice";
    listed[list[i]] = lists;
  }
  return nullptr;
}

bool rta_plan::side_by_side(int64_t first, int64_t samples) const {
  for (int64_t s = 1; s < samples; ++s)
    if (some[first + s] != some[first] + s) return false;
  return true;
}

void rta_plan::place_states(Lane& lane, int64_t first, int64_t samples) const {
  const bool as_they_lie = side_by_side(first, samples);
  for (size_t i = 0; i < states.size(); ++i) {
    const int64_t bytes = sample_bytes(states[i]);
    if (as_they_lie) {
      lane.at[states[i]] = held[i] + some[first] * bytes;
      continue;
    }
    lane.at[states[i]] = lane.gathered[i];
    for (int64_t s = 0; s < samples; ++s)
      std::memcpy(lane.gathered[i] + s * bytes, held[i] + some[first + s] * bytes, static_cast<size_t>(bytes));
  }
}

void rta_plan::return_states(const Lane& lane, int64_t first, int64_t samples) const {
  for (size_t i = 0; i < states.size(); ++i) {
    if (lane.at[states[i]] != lane.gathered[i]) continue;
    const int64_t bytes = sample_bytes(states[i]);
    for (int64_t s = 0; s < samples; ++s)
      std::memcpy(held[i] + some[first + s] * bytes, lane.gathered[i] + s * bytes, static_cast<size_t>(bytes));
  }
}

const char* rta_plan::check_some(const void* const* in, int64_t samples, const int64_t* list) {
  some = list;
  const char* reason = check(in, samples);
  some = nullptr;
  return reason;
}

void rta_plan::run_some(const void* const* in, void* const* out, int64_t samples, const int64_t* list) {
  some = list;
  uneven = true;
  run(in, out, samples);
  --tick;
  for (int64_t i = 0; i < samples; ++i) --behind[list[i]];
  some = nullptr;
}

// The states of one stream, for how long it stays corrupted, and its steps.
size_t rta_plan::stream_bytes() const {
  size_t bytes = 2 * sizeof(int64_t);
  for (int id : states) bytes += static_cast<size_t>(sample_bytes(id));
  return bytes;
}

void rta_plan::save_stream(int64_t sample, char* to) const {
  for (size_t i = 0; i < states.size(); ++i) {
    const auto bytes = static_cast<size_t>(sample_bytes(states[i]));
    std::memcpy(to, held[i] + sample * sample_bytes(states[i]), bytes);
    to += bytes;
  }
  const int64_t last[2] = {nonfinite[sample], tick - behind[sample]};
  std::memcpy(to, last, sizeof last);
}

void rta_plan::load_stream(int64_t sample, const char* from) {
  int64_t last[2];
  std::memcpy(last, from + stream_bytes() - sizeof last, sizeof last);
  if (last[1] < 0 || last[1] > kMaxTick) fail("a stream after %lld steps", static_cast<long long>(last[1]));
  if (last[0] != 0 && last[0] != memory && (last[0] < 0 || last[0] > memory))
    fail("a mark for %lld calls", static_cast<long long>(last[0]));
  for (size_t i = 0; i < states.size(); ++i) {
    const auto bytes = static_cast<size_t>(sample_bytes(states[i]));
    std::memcpy(held[i] + sample * sample_bytes(states[i]), from, bytes);
    from += bytes;
  }
  nonfinite[sample] = last[0];
  behind[sample] = tick - last[1];
  uneven |= behind[sample] != 0;
}
