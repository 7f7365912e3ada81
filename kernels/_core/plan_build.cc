// A plan is built: values, stages with their packed weights, and the memory that its calls use.
#include <algorithm>
#include <cstring>

#include "_core/guard.h"
#include "_core/plan.h"

using namespace rta;

constexpr int64_t kMostElements = int64_t{1} << 40;  // of a value: sums and products of a few of them do not overflow

// Bytes of so many samples.
static int64_t times(int64_t bytes, int64_t samples) {
  int64_t made;
  if (__builtin_mul_overflow(bytes, samples, &made) || made > int64_t{1} << 46)
    fail("%lld samples of %lld bytes of states", static_cast<long long>(samples), static_cast<long long>(bytes));
  return made;
}

// Numbers that lie so at the edge of a plan alone.
static bool is_half(rta_dtype dtype) { return dtype == RTA_BFLOAT16 || dtype == RTA_FLOAT16; }
static bool is_narrow(rta_dtype dtype) {
  return dtype == RTA_INT32 || dtype == RTA_INT16 || dtype == RTA_UINT8 || is_half(dtype);
}

// Of a narrow dtype.
static bool takes(const Stage& stage, rta_dtype dtype) {
  return stage.takes() >= (is_half(dtype) ? Dtypes::all : Dtypes::whole);
}

int rta_plan::add_value(rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {
  if (finished) fail("the plan is finished");
  if (width < 0 || steps < 1 || width > INT32_MAX || steps > INT32_MAX || steps * width > kMostElements)
    fail("a value has %lld steps of width %lld", static_cast<long long>(steps), static_cast<long long>(width));
  const bool edge = is_narrow(dtype) && (role == RTA_INPUT || role == RTA_OUTPUT);
  if (dtype != RTA_FLOAT32 && dtype != RTA_INT8 && dtype != RTA_INT64 && !edge)
    fail(
        "a value has dtype %d, expected float32, int8, int64, or int32, int16, uint8, bfloat16 and float16 for an "
        "input or output",
        dtype);
  const int id = static_cast<int>(values.size());
  const int64_t bytes = width * element_bytes(dtype);
  roles.push_back(role);
  values.push_back({dtype, steps, width, 0});
  spans.emplace_back();
  columns.emplace_back();
  written.push_back(false);
  const int64_t lines = (bytes + 63) / 64 * 64;
  const bool narrow = role == RTA_INNER && dtype != RTA_INT8 && 2 * bytes <= lines;  // lines would be half empty
  values.back().pitch = staged(id) && !narrow ? lines : bytes;
  if (role == RTA_INPUT) {
    inputs.push_back(id);
    spans.back() = {-1, -1};  // it is written where it lies before all stages, whether one reads it or not
  }
  if (role == RTA_OUTPUT) outputs.push_back(id);
  if (role == RTA_STATE) states.push_back(id);
  return id;
}

namespace {

// What is left of a stage whose result is seen where its input lies.
struct Seen final : Stage {
  void run(const Run&) const override {}
};

}  // namespace

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
  if (!RTA_WANTS_FAR_WEIGHTS && packed_bytes() > kNearBytes)
    fail("%s: more packed weights than this was built for", op);
  for (int i = 0; i < in_count; ++i) {
    if (stage->looks_at(i) && roles[in[i]] != RTA_INPUT && roles[in[i]] != RTA_STATE)
      fail("%s: value %d is computed, where the stage looks at inputs before a call", op, in[i]);
    for (int o = 0; o < out_count; ++o)
      if (in[i] == out[o] && !(roles[in[i]] == RTA_STATE && stage->updates(i, o)))
        fail("%s: output %d is input %d too", op, o, i);
  }
  for (int i = 0; i < out_count; ++i)  // a kernel that writes wider elements would write past the end
    if (is_narrow(values[out[i]].dtype) && !takes(*stage, values[out[i]].dtype))
      fail("%s: gives no %s, as output %d is", op, dtype_name(values[out[i]].dtype), i);
  for (int i = 0; i < in_count; ++i)  // and one that reads wider elements read past it
    if (is_half(values[in[i]].dtype) && !takes(*stage, values[in[i]].dtype))
      fail("%s: takes no %s", op, dtype_name(values[in[i]].dtype));
  if (in_count == 1 && out_count == 1 && see_columns(*stage, in[0], out[0])) {
    stage = std::make_unique<Seen>();
    weights->give_back(before);
  }
  if (out_count == 1 && stage->updates(0, 0))
    overlays.push_back({static_cast<int>(stages.size()), out[0], std::vector<int>(in, in + in_count)});
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

// About kBlockRows rows; more samples where a stage gains by them, all take them, and their values stay in a cache.
int64_t rta_plan::samples_of_block() const {
  int64_t steps = 1, bytes = 1, wanted = 0, most = kMaxTick;
  for (size_t id = 0; id < values.size(); ++id) {
    steps = std::max(steps, values[id].steps);
    bytes += sample_bytes(static_cast<int>(id));
  }
  for (const auto& stage : stages) {
    const int64_t together = stage->samples_together();
    if (!together) continue;
    wanted = std::max(wanted, together);
    most = std::min(most, together);
  }
  const int64_t rows = std::max(int64_t{1}, kBlockRows / steps);
  const int64_t samples = std::max(rows, std::min({wanted, most, kTogetherBytes / bytes}));
  return std::min(samples, RTA_MOST_SAMPLES);
}

void rta_plan::finish(int64_t for_samples, int64_t state_memory) {
  if (finished) fail("the plan is finished");
  if (states.empty() ? for_samples != 0 : for_samples < 1)
    fail("a plan with %zu states is made for %lld samples", states.size(), static_cast<long long>(for_samples));
  for (int id : outputs)
    if (!written[id]) fail("output %d of the plan is written by no stage", id);
  block = samples_of_block();
  memory = state_memory;
  lie_over();
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
