// What a kernel of the native core is written against: attributes, memory, the stage interface, the table of kernels.
//
// Included by files that are compiled for one instruction set each. So that no code compiled for a newer CPU is
// ever shared with an older one, everything here that has a body is defined once, in stage.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "_core/isa.h"
#include "_core/rta_plan.h"
#include "_core/wanted.h"

namespace rta {

// Raised while a plan is built; the C ABI turns it into -1 and rta_error().
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

const char* dtype_name(rta_dtype dtype);
int64_t dtype_bytes(rta_dtype dtype);  // of an element

// Of values: float32, int8 and int64; int32, int16 and uint8 as results too; bfloat16 and float16 as well, which others
// cannot read.
enum class Dtypes { wide, whole, all };

class Attrs {
 public:
  Attrs(const rta_attr* attrs, int count) : attrs_(attrs), count_(count) {}
  int64_t integer(const char* name) const;
  double real(const char* name) const;
  const char* text(const char* name) const;
  bool has(const char* name) const;
  bool text_is(const char* name, const char* value) const;
  const float* floats(const char* name, int64_t count) const;  // a float32 tensor of just this many elements
  const int8_t* int8s(const char* name, int64_t count) const;
  const int32_t* ints(const char* name, int64_t count) const;
  const uint8_t* bytes(const char* name, int64_t count) const;  // uint8
  const uint16_t* bfloats(const char* name, int64_t count) const;
  const int64_t* longs(const char* name, int64_t count) const;
  int64_t count(const char* name) const;    // elements of a tensor
  rta_dtype dtype(const char* name) const;  // of a tensor
  int size() const { return count_; }
  const rta_attr& at(int i) const { return attrs_[i]; }

 private:
  const rta_attr& find(const char* name, rta_attr_kind kind) const;
  const rta_attr* attrs_;
  int count_;
};

// All packed weights of a plan, back to back in the order of use, so that the reads form one ascending stream.
// One mapping of whole huge pages where the system gives them. gaps: what AddressSanitizer watches over, in builds with
// it, has memory in between that it reports.
class Arena {
 public:
  explicit Arena(size_t bytes, bool gaps = false);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  void* take(size_t bytes);  // 64-byte aligned, zeroed
  size_t used() const { return used_; }
  struct Mark {
    size_t used, end;
  };
  Mark mark() const { return {used_, end_}; }
  void give_back(Mark to);  // what was taken since
  // Makes every page in use resident, and writable without a fault where asked for. Bytes of these pages.
  size_t populate(bool write);
  bool lock();  // in memory, for good; false with errno where the system does not allow it

 private:
  char* base_ = nullptr;
  size_t capacity_, used_ = 0, mapped_ = 0;
  size_t end_ = 0;  // used_, and gaps
  const bool gaps_;
};

// No code may touch these bytes from here on, as far as AddressSanitizer sees; nothing in builds without it.
void watch(void* start, size_t bytes);
bool is_watched();  // whether this is a build with it

// What lies between stages: for each sample `steps` rows. Rows follow one another at `pitch` through all samples of a
// block, so that a stage which treats rows alike need not know where a sample ends. An int8 value lies in memory as
// q + 128 in uint8_t; columns from width up to the next multiple of 64 exist (in values that the plan owns) and hold
// anything.
struct Value {
  rta_dtype dtype;
  int64_t steps;
  int64_t width;
  int64_t pitch;  // bytes from one row to the next
};

// Where the values of the running block of samples are.
struct Run {
  char* const* at;                 // by value id: first row of the block
  int64_t samples;                 // of this block
  float* nan_marks;                // by sample: 0, or NaN once an input that int8 cannot hold was seen
  char* scratch;                   // as many bytes as the stage asked for, 64-byte aligned; holds anything
  int64_t tick;                    // calls since the plan was made: where a ring buffer stands
  bool weights_exceed_l2 = false;  // the plan's weights do not stay in a second-level cache from call to call
  const int64_t* ticks = nullptr;  // by sample, where streams have made different numbers of steps; else nullptr
  class Pool* pool = nullptr;  // of a stage that forks: threads for pieces of this run, `forks` at most with this one
  int forks = 1;
  int part = 0;  // this call computes part `part` of `parts`: all of them at once, each on a thread of its own
  int parts = 1;
};

constexpr int64_t kBlockRows = 32;  // samples of a block have about as many rows together

// A value as a stage reads or writes it; id < 0 where it is absent.
struct GraphIO {
  int id;
  int64_t pitch;
  int64_t steps;
  int64_t width;
  bool exists() const { return id >= 0; }
  int64_t rows(const Run& run) const { return run.samples * steps; }
  char* row(const Run& run, int64_t r) const { return run.at[id] + r * pitch; }
};

// Packed weights of a stage that were written by a stage like it, and are taken in the same order.
struct Prepacked {
  const char* at;
  size_t left;
};
struct PackedPart {  // a piece of such weights
  int stage;
  const char* start;
  size_t bytes;
};
struct PackedParts;

struct StageSpec {
  const Value* values;  // the table of the plan, by id
  const int* inputs;
  int input_count;
  const int* outputs;
  int output_count;
  Attrs attrs;
  Arena* arena;
  size_t* scratch;
  const char* op;
  Prepacked* prepacked;  // nullptr: the stage packs its weights
  PackedParts* parts;

  // Memory for packed weights that hold numbers alone: no address, and nothing that leads to one. Where they are there
  // already they are not written: `packs` says so.
  void* weights(size_t bytes) const;
  bool packs() const { return !prepacked; }
  void need_scratch(size_t bytes) const {
    if (*scratch < bytes) *scratch = bytes;
  }
  const Value& input(int i) const { return values[inputs[i]]; }
  const Value& output(int i) const { return values[outputs[i]]; }
  GraphIO in(int i) const;  // absent where the stage has fewer inputs
  GraphIO out(int i) const;
};

class Stage {
 public:
  virtual ~Stage();
  virtual void run(const Run& run) const = 0;
  virtual bool marks_samples() const;  // may set Run::nan_marks; false unless overridden
  // Into how many parts `run` may be cut for so many samples: 1 unless overridden. Run::parts is at most that. Parts
  // write different cache lines, have scratch of their own, and leave the same bits however many they are. A stage
  // that marks samples is not cut.
  virtual int parts(int64_t samples) const;
  // Estimate in ns, rather low than high, of `run` on one thread; 0 unless overridden. What it takes to read packed
  // weights and values once is known without. Decides whether threads pay.
  virtual int64_t cost_ns(int64_t samples) const;
  // A stage that forks goes through pieces one after another, each of which the threads may share with Run::pool: into
  // how many parts at most, of so many threads, and what that saves in a run by a low estimate. 1 unless overridden.
  // Each piece leaves the same bits however many parts it has.
  virtual int forks(int64_t samples, int threads, int64_t* saved_ns) const;
  // How many samples of a block it is to have where the plan's values leave that open, and takes at most: samples that
  // share each weight that is read. Rows of a block are kBlockRows otherwise. 0 unless overridden: whatever there is.
  virtual int64_t samples_together() const;
  // Looks at inputs and states of the plan before anything is computed. nullptr, or why they cannot be: the call is
  // refused.
  virtual const char* check(const Run& run) const;
  virtual bool checks() const;          // whether `check` does anything; false unless overridden
  virtual bool looks_at(int in) const;  // whether `check` reads this input: all of them unless overridden
  // After all stages ran: nullptr, or why what this one was given cannot be (an index that was computed and is
  // outside); then the call is refused, and its results are worth nothing. Asked once a call, and forgotten.
  virtual const char* refusal() const;
  virtual bool refuses() const;  // whether `refusal` may say something; false unless overridden
  // Whether output `out` may be the same value as input `in`, as a state that is read and written, or lie where it
  // lies: not unless overridden.
  virtual bool updates(int in, int out) const;
  // Which dtypes its values may have beside float32, int8 and int64; wide unless overridden.
  virtual Dtypes takes() const;
  // What a state holds before the first call: one sample of it. Zero unless overridden.
  virtual void start(int id, char* state) const;
  // Where its only result is a run of columns of its only input: how many bytes they lie behind the first one. Between
  // stages they are seen there then, and nothing is copied. -1 unless overridden.
  virtual int64_t columns_at() const;
};

// The first number that a running stage found outside of what it takes; its threads may find several.
class Outside {
 public:
  void note(int64_t number) const {
    __atomic_store_n(&number_, number, __ATOMIC_RELAXED);
    __atomic_store_n(&found_, 1, __ATOMIC_RELAXED);
  }
  bool take(int64_t* number) const {
    if (!__atomic_load_n(&found_, __ATOMIC_RELAXED)) return false;
    *number = number_;
    found_ = 0;
    return true;
  }

 private:
  mutable int64_t number_ = 0;
  mutable int found_ = 0;
};

struct Kernel {
  const char* op;
  const char* name;
  Isa isa;
  int rank;  // 10 * place of the set for what add_kernel adds
  const char* (*reject)(const Attrs&);
  Stage* (*create)(const StageSpec&);
};

// A kernel in the table, with room for its name.
struct KernelRow {
  Kernel kernel;
  KernelRow* next;
  char name[40];
};

// Kernel::create of a stage that is made of its specification alone.
template <class T>
RTA_ONCE Stage* create_stage(const StageSpec& spec) {
  return new T(spec);
}

// A kernel written over the vectors S: added as <stem>_<name of the set>, the later set preferred. A header of such
// kernels defines `template <class S> static void register_kernels()`, which calls this for each of its kernels with
// S::kIsa; CMake compiles the header once for each instruction set (cpu_isa.cc.in).
void add_kernel_row(KernelRow* row, Isa isa, const char* op, const char* stem, const char* (*reject)(const Attrs&),
                    Stage* (*create)(const StageSpec&));
// What is not wanted is not even compiled.
#define add_kernel(isa, op, stem, ...)                                                   \
  do {                                                                                   \
    if constexpr (RTA_WANTS_KERNEL(isa, op, stem)) {                                     \
      static ::rta::KernelRow row;                                                       \
      static_assert(sizeof stem + 12 <= sizeof row.name, "the name has room for a set"); \
      ::rta::add_kernel_row(&row, isa, op, stem, __VA_ARGS__);                           \
    }                                                                                    \
  } while (0)

// A set that only adds the int8 dot product has no float32 forms: they would be those of its parent again.
template <class S>
constexpr bool kHasFloat32 = !S::kAddsDots;
template <class S, const char* (*kReject)(const Attrs&)>
const char* rejects_float32(const Attrs& attrs) {
  if (!kHasFloat32<S> && attrs.text_is("weight_dtype", "float32"))
    return "float32 weights have the kernel of its parent";
  return kReject(attrs);
}

class Register {
 public:
  explicit Register(void (*register_kernels)());
  explicit Register(const Kernel& kernel);  // a kernel of its own design, in a file of its own

 private:
  KernelRow row_{};
};

const KernelRow* first_kernel();
const Kernel* find_kernel(const char* op, const char* name);
// nullptr, or why a kernel cannot compute it: on a processor that has its set, and on this one.
const char* unsuited(const Kernel& kernel, const Attrs& attrs);
const char* rejected(const Kernel& kernel, const Attrs& attrs);

}  // namespace rta
