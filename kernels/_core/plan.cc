// A plan: values, stages, and the one call that runs them. Samples go through in blocks, all stages for one block
// before the next, so that whatever lies between stages stays in the first-level cache however large the batch is.
#include "_core/plan.h"

#include <algorithm>
#include <cstring>

#include "_core/guard.h"

using namespace rta;

// int8 outside, q + 128 in uint8_t inside.
static void flip_sign(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) to[r * to_pitch + i] = static_cast<char>(from[r * from_pitch + i] ^ 0x80);
}

constexpr int64_t kMostElements = int64_t{1} << 40;  // of a value: sums and products of a few of them do not overflow

// Bytes of so many samples.
static int64_t times(int64_t bytes, int64_t samples) {
  int64_t made;
  if (__builtin_mul_overflow(bytes, samples, &made) || made > int64_t{1} << 46)
    fail("%lld samples of %lld bytes of states", static_cast<long long>(samples), static_cast<long long>(bytes));
  return made;
}

int rta_plan::add_value(rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {
  if (finished) fail("the plan is finished");
  if (width < 0 || steps < 1 || width > INT32_MAX || steps > INT32_MAX || steps * width > kMostElements)
    fail("a value has %lld steps of width %lld", static_cast<long long>(steps), static_cast<long long>(width));
  const bool given = role == RTA_INPUT && (dtype == RTA_INT32 || dtype == RTA_UINT8);
  if (dtype != RTA_FLOAT32 && dtype != RTA_INT8 && dtype != RTA_INT64 && !given)
    fail("a value has dtype %d, expected float32, int8, int64, or int32 and uint8 for an input", dtype);
  const int id = static_cast<int>(values.size());
  const int64_t bytes = width * element_bytes(dtype);
  roles.push_back(role);
  values.push_back({dtype, steps, width, 0});
  spans.emplace_back();
  written.push_back(false);
  values.back().pitch = staged(id) ? (bytes + 63) / 64 * 64 : bytes;
  if (role == RTA_INPUT) inputs.push_back(id);
  if (role == RTA_OUTPUT) outputs.push_back(id);
  if (role == RTA_STATE) states.push_back(id);
  return id;
}

// The operator in front of what a stage says about itself.
static Stage* created(const Kernel& kernel, const StageSpec& spec) {
  Stage* stage = nullptr;
  if (attempt([&] { stage = kernel.create(spec); })) return stage;
  const char* why = last_error().c_str();
  const size_t length = std::strlen(spec.op);
  const bool named = std::strncmp(why, spec.op, length) == 0 && why[length] == ':';
  fail("%s%s%s", named ? "" : spec.op, named ? "" : ": ", why);
}

void rta_plan::add_stage(const char* op, const char* kernel_name, const int* in, int in_count, const int* out,
                         int out_count, const Attrs& attrs) {
  if (finished || in_count < 1 || out_count < 1) fail("%s: a stage needs inputs and outputs", op);
  const Kernel* kernel = find_kernel(op, kernel_name);
  if (!kernel) fail("there is no kernel %s/%s in the native core", op, kernel_name);
  if (kernel->isa > isa_level()) fail("%s/%s needs a newer CPU than this or is ruled out", op, kernel_name);
  const int64_t bytes = checked_values(op, in, in_count, out, out_count);
  const Arena::Mark before = weights->mark();
  const Prepacked given = prepacked;
  const size_t first = packed_parts.all.size();
  packed_parts.stage = static_cast<int>(stages.size());
  StageSpec spec{values.data(), in,
                 in_count,      out,
                 out_count,     attrs,
                 weights.get(), &stage_scratch,
                 kernel->op,    prepacked.at ? &prepacked : nullptr,
                 &packed_parts};
  std::unique_ptr<Stage> stage(created(*kernel, spec));
  size_t read = given.at ? given.left : 0;
  in_place += read;
  const Prepacked own = given.at ? given : joined(packed_parts.all, first);
  const char* same = own.left ? shared.find_or_add(own) : nullptr;
  if (same && !given.at) {
    stage.reset();
    weights->give_back(before);
    for (size_t i = first; i < packed_parts.all.size(); ++i) {
      PackedPart& part = packed_parts.all[i];
      part.start = same + (part.start - own.at);
    }
    prepacked = {same, own.left};
    spec.prepacked = &prepacked;
    stage.reset(created(*kernel, spec));
    read = own.left;
  }
  if (prepacked.left) fail("%s: %zu bytes of its packed weights are left over", op, prepacked.left);
  prepacked = {nullptr, 0};
  for (int i = 0; i < in_count; ++i) {
    if (stage->checks() && roles[in[i]] != RTA_INPUT)
      fail("%s: value %d is computed, where the stage looks at inputs before a call", op, in[i]);
    for (int o = 0; o < out_count; ++o)
      if (in[i] == out[o] && !(roles[in[i]] == RTA_STATE && stage->updates(i, o)))
        fail("%s: output %d is input %d too", op, o, i);
  }
  for (int i = 0; i < in_count; ++i) touch(in[i], static_cast<int>(stages.size()));
  for (int i = 0; i < out_count; ++i) {
    touch(out[i], static_cast<int>(stages.size()));
    written[out[i]] = true;
  }
  stages.push_back(std::move(stage));
  marks_samples |= stages.back()->marks_samples();
  checks |= stages.back()->checks();
  refuses |= stages.back()->refuses();
  read_bytes.push_back(static_cast<int64_t>(weights->used() - before.used + read));
  row_bytes.push_back(bytes);
}

void* StageSpec::weights(size_t bytes) const {
  const size_t whole = (bytes + 63) / 64 * 64;
  if (!prepacked) {
    void* at = arena->take(whole < bytes ? bytes : whole);  // parts are compared with what fills their last line
    parts->all.push_back({parts->stage, static_cast<const char*>(at), whole});
    return at;
  }
  if (bytes > prepacked->left || whole > prepacked->left)
    fail("%zu bytes of packed weights, of which %zu are left", bytes, prepacked->left);
  const char* at = prepacked->at;
  *prepacked = {at + whole, prepacked->left - whole};
  return const_cast<char*>(at);
}

// Of a stage that is added: every value exists, what it reads was written before, and what it writes by no stage yet.
// Bytes of its values, of one sample.
int64_t rta_plan::checked_values(const char* op, const int* in, int in_count, const int* out, int out_count) const {
  const int count = static_cast<int>(values.size());
  int64_t bytes = 0;
  for (int i = 0; i < in_count; ++i) {
    if (in[i] < 0 || in[i] >= count) fail("%s: input %d is no value of the plan", op, in[i]);
    if (!written[in[i]] && roles[in[i]] != RTA_INPUT && roles[in[i]] != RTA_STATE)
      fail("%s: value %d is read before a stage wrote it", op, in[i]);
    bytes += sample_bytes(in[i]);
  }
  for (int i = 0; i < out_count; ++i) {
    if (out[i] < 0 || out[i] >= count || roles[out[i]] == RTA_INPUT)
      fail("%s: output %d is no value that can be written", op, out[i]);
    if (written[out[i]] || std::find(out, out + i, out[i]) != out + i)
      fail("%s: value %d is written twice", op, out[i]);
    bytes += sample_bytes(out[i]);
  }
  return bytes;
}

void rta_plan::finish(int64_t for_samples, int64_t state_memory) {
  if (finished) fail("the plan is finished");
  if (states.empty() ? for_samples != 0 : for_samples < 1)
    fail("a plan with %zu states is made for %lld samples", states.size(), static_cast<long long>(for_samples));
  for (int id : outputs)
    if (!written[id]) fail("output %d of the plan is written by no stage", id);
  int64_t steps = 1;
  for (const Value& v : values) steps = std::max(steps, v.steps);
  block = std::min(std::max(int64_t{1}, kBlockRows / steps), RTA_MOST_SAMPLES);
  memory = state_memory;
  const int64_t own_scratch = static_cast<int64_t>((stage_scratch + 63) / 64 * 64);
  std::vector<int64_t> at;
  const int64_t values_end = lay_out(own_scratch, at);
  int64_t bytes = values_end;
  for (int id : states) bytes += sample_bytes(id) * block;
  size_t kept = 0;
  for (int id : states) kept += static_cast<size_t>(times(sample_bytes(id), for_samples));
  const uint64_t asked = kept + static_cast<uint64_t>(bytes);
  if (asked > most_bytes)
    fail("it asks for %llu bytes of scratch and states, where %llu are allowed", static_cast<unsigned long long>(asked),
         static_cast<unsigned long long>(most_bytes));
  nonfinite.assign(static_cast<size_t>(for_samples), 0);
  behind.assign(static_cast<size_t>(for_samples), 0);
  listed.assign(static_cast<size_t>(for_samples), 0);
  plan_threads();

  scratch = std::make_unique<Arena>(static_cast<size_t>(bytes * threads));
  state = std::make_unique<Arena>(kept);
  // Filled, so that the pages are there before the first call.
  const auto take = [](Arena& arena, int64_t size, int fill) {
    char* start = static_cast<char*>(arena.take(static_cast<size_t>(size)));
    std::memset(start, fill, static_cast<size_t>(size));
    return start;
  };
  for (int id : states) held.push_back(take(*state, sample_bytes(id) * for_samples, 0));
  lanes.resize(static_cast<size_t>(threads));
  for (Lane& lane : lanes) {
    lane.at.assign(values.size(), nullptr);
    lane.nan_marks.assign(static_cast<size_t>(block), 0.0f);
    lane.ticks.assign(static_cast<size_t>(block), 0);
    if (bytes) lane.scratch = take(*scratch, bytes, 0xFF);  // NaN: no stage may count on what it finds
    for (size_t id = 0; id < values.size(); ++id)
      if (roles[id] != RTA_STATE && staged(static_cast<int>(id))) lane.at[id] = lane.scratch + at[id];
    char* next = lane.scratch + values_end;
    for (int id : states) {
      lane.gathered.push_back(next);
      next += sample_bytes(id) * block;
    }
    if (bytes) watch_between(lane.scratch, own_scratch, at);
  }
  reset(0, for_samples);
  finished = true;
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
  for (int64_t first = 0; first < samples; first += block) {
    const int64_t now = std::min(block, samples - first);
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

// Float outputs of a sample that was marked, now or within the memory of its states, become NaN.
void rta_plan::propagate_nan(Lane& lane, int64_t first, int64_t samples) {
  for (int64_t s = 0; s < samples; ++s) {
    bool bad = lane.nan_marks[s] != 0.0f;
    if (!states.empty()) {
      int64_t& left = nonfinite[sample_at(first + s)];
      if (bad)
        left = memory;
      else if (left != 0)
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
