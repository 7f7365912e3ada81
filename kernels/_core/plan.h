// What a plan holds. plan_build.cc makes it, plan.cc runs it, plan_threads.cc decides what threads share,
// plan_profile.cc times its stages, plan_abi.cc is the C ABI.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "_core/memory.h"
#include "_core/stage.h"
#include "_system/dtypes.h"
#include "_system/thread_pool.h"

namespace rta {

constexpr int64_t kTogetherBytes = 512 << 10;   // of the values of a block that has more than kBlockRows rows
constexpr int64_t kMaxTick = int64_t{1} << 62;  // no plan is called more often
constexpr int kAfterAll = 1 << 30;
constexpr size_t kNearBytes = size_t{2} << 20;  // as large as second-level caches get

// The stages that a value is needed for.
struct Span {
  int first = kAfterAll, last = -1;
};

// A value that is some columns of another one: which, and how many bytes behind its first column. of < 0: it is none.
struct Columns {
  int of = -1;
  int64_t at = 0;
};

// A stage whose result may lie where its first input lies.
struct Overlay {
  int stage, out;
  std::vector<int> in;
};

// What one thread needs to take a block of samples through all stages.
struct Lane {
  std::vector<char*> at;         // by value: its first row in the running block
  std::vector<float> nan_marks;  // by sample of a block
  std::vector<int64_t> ticks;    // by sample of a block
  std::vector<char*> gathered;   // by state: where those of streams that do not lie side by side are brought together
  char* scratch = nullptr;
};

struct PackedParts {
  int stage = 0;  // that is being made
  std::vector<PackedPart> all;
};

// The packed weights that were taken last, `from` on in the list, where they lie back to back; else of no bytes.
Prepacked joined(const std::vector<PackedPart>& all, size_t from);

// Stages that have the same weights, as the steps of a loop that was written out, read one packed copy. It stays in a
// near cache from stage to stage, where a copy for each would come from memory every time. Packed weights are compared
// as they are, byte for byte: a sum of them could be the same for others in a file that somebody made for that.
class SharedWeights {
 public:
  // Where the same bytes lie already, or nullptr: then these are known from now on.
  const char* find_or_add(const Prepacked& packed);

 private:
  std::vector<Prepacked> all_;  // by size, then by content
};

// Keeps memory that a plan reads as long as the plan does.
struct Kept {
  virtual ~Kept() = default;
};

// How the threads of a plan share blocks of one size.
struct Cut {
  std::vector<int> parts;  // by stage
  std::vector<int> forks;  // by stage: of its pieces, where the stage itself is not cut
  int64_t cost_ns = 0;     // estimate, of one thread
  int64_t saved_ns = 0;    // by cutting stages
};

struct EndThreads {
  void operator()(Pool* pool) const {
    if constexpr (RTA_WANTS_THREADS) delete pool;
  }
};

// What run_block does between its parts: nothing, in every call but those of rta_plan_profile.
struct Unmarked {
  void operator()(size_t) const {}
};

// Adds what the processor's counter moved on since the reading before to the part that has just ended.
struct Marks {
  int64_t* ticks;
  int64_t last;
  void operator()(size_t part);
};

}  // namespace rta

// All of a plan but what its samples keep from call to call: what an exchange of weights puts in place.
struct rta_plan_body {
  std::unique_ptr<rta::Arena> weights, scratch;
  std::vector<rta::Value> values;
  std::vector<rta_role> roles;
  std::vector<rta::Span> spans;       // by value
  std::vector<rta::Columns> columns;  // by value
  std::vector<rta::Overlay> overlays;
  std::vector<char> written;  // by value: a stage of those that were added gives it
  std::vector<int> inputs, outputs, states;
  std::vector<std::unique_ptr<rta::Stage>> stages;
  std::vector<int64_t> read_bytes;  // by stage: packed weights
  std::vector<int64_t> row_bytes;   // by stage: its values, of one sample
  std::vector<rta::Lane> lanes;     // one for each thread
  rta::PackedParts packed_parts;
  rta::SharedWeights shared;
  size_t in_place = 0;              // bytes of packed weights that are not in `weights`
  std::unique_ptr<rta::Kept> kept;  // memory that they are in
  const void* kept_start = nullptr;
  size_t kept_bytes = 0;
  size_t stage_scratch = 0;
  bool marks_samples = false, checks = false, refuses = false, finished = false;
  int64_t block = 1, memory = 0;
  uint64_t most_bytes = uint64_t{1} << 46;  // of states, and of the scratch of a thread

  int threads = 1;
  std::vector<int> cores;
  std::vector<rta::Cut> cuts;  // by samples of a block
  std::unique_ptr<rta::Pool, rta::EndThreads> pool;
  rta::Region* region = rta::region_in_use();  // that all of this is in
};

struct rta_plan : rta_plan_body {
  explicit rta_plan(size_t weight_bytes) { weights = std::make_unique<rta::Arena>(weight_bytes, true); }

  // Building.
  int add_value(rta_dtype dtype, int64_t steps, int64_t width, rta_role role);
  void add_stage(const char* op, const char* kernel, const int* in, int in_count, const int* out, int out_count,
                 const rta::Attrs& attrs);
  void use_threads(int count);
  void finish(int64_t for_samples, int64_t state_memory);
  int64_t samples_of_block() const;

  // Running.
  const char* check(const void* const* in, int64_t samples);
  void run(const void* const* in, void* const* out, int64_t samples);
  const char* check_some(const void* const* in, int64_t samples, const int64_t* list);
  void run_some(const void* const* in, void* const* out, int64_t samples, const int64_t* list);
  const char* refuse_list(int64_t samples, const int64_t* list);
  size_t stream_bytes() const;
  void save_stream(int64_t sample, char* to) const;
  void load_stream(int64_t sample, const char* from);
  const char* refusal() const;
  void reset(int64_t first, int64_t count);
  double profile(const void* const* in, void* const* out, int64_t samples, int64_t calls, int64_t* ticks);

  // Threads.
  int parts(int stage, int64_t samples) const;
  bool shares() const { return RTA_WANTS_THREADS && pool; }  // whether it has threads
  int running_threads() const { return shares() && !pool->forked() ? threads : 1; }
  int64_t prefault();
  bool lock();
  size_t read_kept() const;

  bool staged(int id) const { return roles[id] == RTA_INNER || roles[id] == RTA_STATE || values[id].dtype == RTA_INT8; }
  size_t packed_bytes() const { return weights->used() + in_place; }
  bool weights_exceed_l2() const { return RTA_WANTS_FAR_WEIGHTS && packed_bytes() > rta::kNearBytes; }
  int64_t sample_bytes(int id) const { return values[id].pitch * values[id].steps; }

  // Another plan's body is put in place of this one's when the next call begins (plan_threads.cc).
  bool offer(rta_plan* next);
  bool withdraw(rta_plan* next);
  void take();

  rta::Prepacked prepacked{nullptr, 0};  // of the stage that is added next, where it has some
  std::unique_ptr<rta::Arena> state;
  std::vector<char*> held;         // by state, in the order of `states`: its first row of all
  std::vector<int64_t> nonfinite;  // by sample: calls for which its states hold what int8 could not
  int64_t tick = 0;
  std::vector<int64_t> behind;  // by sample: the steps that it has made fewer than `tick`, or below 0 more
  std::vector<int64_t> listed;  // by sample: the last list that it was in
  int64_t lists = 0;
  bool uneven = false;            // whether `behind` says anything
  const int64_t* some = nullptr;  // the samples of the running call, where it is not all of them
  std::atomic<rta_plan*> offered{nullptr};

 private:
  int64_t checked_values(const char* op, const int* in, int in_count, const int* out, int out_count) const;
  void touch(int id, int stage);
  bool see_columns(const rta::Stage& stage, int in, int out);
  int root(int id) const { return columns[id].of < 0 ? id : columns[id].of; }  // the value that it lies in
  void lie_over();
  int64_t lay_out(int64_t start, std::vector<int64_t>& at) const;
  void place_columns(std::vector<int64_t>& at) const;
  void watch_between(char* lane, int64_t start, const std::vector<int64_t>& at) const;
  void place(rta::Lane& lane, const void* const* in, void* const* out, int64_t first, int64_t samples) const;
  template <class Mark>
  void run_block(rta::Lane& lane, const void* const* in, void* const* out, int64_t first, int64_t samples,
                 const rta::Cut* cut, Mark&& mark);
  void run_threaded(const void* const* in, void* const* out, int64_t samples);
  void run_stage(const rta::Stage& stage, const rta::Run& run, int parts, int forks);
  void run_lanes(const void* const* in, void* const* out, int64_t samples, int64_t each);
  void place_states(rta::Lane& lane, int64_t first, int64_t samples) const;
  void return_states(const rta::Lane& lane, int64_t first, int64_t samples) const;
  bool side_by_side(int64_t first, int64_t samples) const;
  int64_t sample_at(int64_t place) const { return some ? some[place] : place; }
  void propagate_nan(rta::Lane& lane, int64_t first, int64_t samples);
  void settle(const rta::Lane& lane, int64_t s) const;
  int64_t blocks_each(int64_t samples) const;
  rta::Cut cut_for(int64_t samples) const;
  void plan_threads();
};
