// Attributes, memory and the table of kernels.
#include "_core/stage.h"

#include "_core/guard.h"
#include "_simd/activation.h"
#include "_system/dtypes.h"

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace rta {

void fail(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
#ifdef RTA_PACKED
  last_error() = text;
  if (!landing) std::abort();
  std::longjmp(landing->place, 1);
#else
  throw std::runtime_error(text);
#endif
}

const char* dtype_name(rta_dtype dtype) { return kDtypes[dtype].name; }
int64_t dtype_bytes(rta_dtype dtype) { return element_bytes(dtype); }

static constexpr const char* kKinds[] = {"whole number", "number", "text", "tensor"};

const rta_attr& Attrs::find(const char* name, rta_attr_kind kind) const {
  for (int i = 0; i < count_; ++i)
    if (std::strcmp(attrs_[i].name, name) == 0) {
      if (attrs_[i].kind != kind)
        fail("attribute '%s' is a %s, expected a %s", name, kKinds[attrs_[i].kind], kKinds[kind]);
      return attrs_[i];
    }
  fail("attribute '%s' is missing", name);
}

bool Attrs::has(const char* name) const {
  for (int i = 0; i < count_; ++i)
    if (std::strcmp(attrs_[i].name, name) == 0) return true;
  return false;
}

int64_t Attrs::integer(const char* name) const { return find(name, RTA_ATTR_INT).integer; }
double Attrs::real(const char* name) const { return find(name, RTA_ATTR_FLOAT).real; }
const char* Attrs::text(const char* name) const { return find(name, RTA_ATTR_TEXT).text; }
bool Attrs::text_is(const char* name, const char* value) const {
  return has(name) && std::strcmp(text(name), value) == 0;
}

static const void* tensor(const rta_attr& attr, rta_dtype dtype, int64_t count) {
  if (attr.dtype != dtype || attr.count != count)
    fail("tensor '%s' has %lld elements of %s, expected %lld of %s", attr.name, static_cast<long long>(attr.count),
         dtype_name(attr.dtype), static_cast<long long>(count), dtype_name(dtype));
  return attr.data;
}

const float* Attrs::floats(const char* name, int64_t count) const {
  return static_cast<const float*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_FLOAT32, count));
}
const int8_t* Attrs::int8s(const char* name, int64_t count) const {
  return static_cast<const int8_t*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_INT8, count));
}
const int32_t* Attrs::ints(const char* name, int64_t count) const {
  return static_cast<const int32_t*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_INT32, count));
}
const uint8_t* Attrs::bytes(const char* name, int64_t count) const {
  return static_cast<const uint8_t*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_UINT8, count));
}
const uint16_t* Attrs::bfloats(const char* name, int64_t count) const {
  return static_cast<const uint16_t*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_BFLOAT16, count));
}
const int64_t* Attrs::longs(const char* name, int64_t count) const {
  return static_cast<const int64_t*>(tensor(find(name, RTA_ATTR_TENSOR), RTA_INT64, count));
}
int64_t Attrs::count(const char* name) const { return find(name, RTA_ATTR_TENSOR).count; }
rta_dtype Attrs::dtype(const char* name) const { return find(name, RTA_ATTR_TENSOR).dtype; }

#ifndef RTA_PACKED  // native/packed has an arena of its own
#if defined(__SANITIZE_ADDRESS__)
void watch(void* start, size_t bytes) { __asan_poison_memory_region(start, bytes); }
static void unwatch(void* start, size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
bool is_watched() { return true; }
#else
void watch(void*, size_t) {}
static void unwatch(void*, size_t) {}
bool is_watched() { return false; }
#endif

constexpr size_t kGap = 64;

constexpr size_t kPage = 4096, kHugePage = size_t{2} << 20;

// bytes: a multiple of huge pages, or of pages.
static char* mapped(size_t bytes, bool huge) {
  const size_t all = bytes + (huge ? kHugePage : 0);
  void* start = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) fail("no memory for %zu bytes", bytes);
  char* base = static_cast<char*>(start);
  if (!huge) return base;
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(base) % kHugePage) % kHugePage;
  if (skip) munmap(base, skip);
  base += skip;
  if (kHugePage > skip) munmap(base + bytes, kHugePage - skip);
#if defined(MADV_HUGEPAGE)              // of Linux
  madvise(base, bytes, MADV_HUGEPAGE);  // advice: where it is not followed, large plans run 1-2 % slower
#endif
  return base;
}

// From half a huge page on, the mapping is made of huge pages: one more than needed, so that the part in use can start
// on a boundary. Below that, ordinary pages: a small plan should not hold 2 MiB of memory.
Arena::Arena(size_t bytes, bool gaps) : gaps_(gaps && is_watched()) {
  if (bytes > size_t{1} << 46) fail("no memory for %zu bytes", bytes);
  const bool huge = bytes >= kHugePage / 2;
  const size_t page = huge ? kHugePage : kPage;
  capacity_ = (bytes + page) / page * page;
  mapped_ = gaps_ ? 2 * capacity_ : capacity_;  // what is taken is at least as large as the gap behind it
}

size_t Arena::populate(bool write) {
  const size_t bytes = (end_ + kPage - 1) / kPage * kPage;
  if (bytes == 0) return 0;
#if defined(MADV_POPULATE_READ) && defined(MADV_POPULATE_WRITE)
  if (madvise(base_, bytes, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return bytes;
#endif
  for (size_t at = 0; at < bytes; at += kPage) {  // Linux before 5.14
    volatile char* byte = base_ + at;
    if (write)
      *byte = *byte;
    else
      static_cast<void>(*byte);
  }
  return bytes;
}

bool Arena::lock() { return end_ == 0 || mlock(base_, end_) == 0; }

Arena::~Arena() {
  if (!base_) return;
  unwatch(base_, mapped_);
  munmap(base_, mapped_);
}

void* Arena::take(size_t bytes) {
  const size_t left = capacity_ - used_, rounded = bytes > left ? bytes : (bytes + 63) / 64 * 64;
  if (rounded > left) fail("a stage wants %zu bytes of the %zu left for weights", bytes, left);
  if (!base_) {  // not before: a plan whose weights are in a file takes none
    base_ = mapped(mapped_, capacity_ % kHugePage == 0);
    watch(base_, mapped_);
  }
  void* at = base_ + end_;
  used_ += rounded;
  end_ += rounded + (gaps_ && rounded ? kGap : 0);
  unwatch(at, bytes);
  return at;
}

void Arena::give_back(Mark to) {
  if (to.end == end_) return;
  unwatch(base_ + to.end, end_ - to.end);
  std::memset(base_ + to.end, 0, end_ - to.end);
  watch(base_ + to.end, end_ - to.end);
  used_ = to.used;
  end_ = to.end;
}
#endif

Stage::~Stage() = default;
bool Stage::marks_samples() const { return false; }
bool Stage::checks() const { return false; }
bool Stage::looks_at(int) const { return checks(); }
int Stage::parts(int64_t) const { return 1; }
int Stage::forks(int64_t, int, int64_t*) const { return 1; }
int64_t Stage::cost_ns(int64_t) const { return 0; }
int64_t Stage::samples_together() const { return 0; }
const char* Stage::check(const Run&) const { return nullptr; }
bool Stage::refuses() const { return false; }
Dtypes Stage::takes() const { return Dtypes::wide; }
const char* Stage::refusal() const { return nullptr; }
bool Stage::updates(int, int) const { return false; }
int64_t Stage::columns_at() const { return -1; }
void Stage::start(int, char*) const {}

static GraphIO port(const StageSpec& spec, const int* ids, int count, int i) {
  if (i >= count) return {-1, 0, 0, 0};
  const Value& v = spec.values[ids[i]];
  return {ids[i], v.pitch, v.steps, v.width};
}
GraphIO StageSpec::in(int i) const { return port(*this, inputs, input_count, i); }
GraphIO StageSpec::out(int i) const { return port(*this, outputs, output_count, i); }

Activation parse_activation(const char* name) {
#define RTA_ROW(kind, known, ...) \
  if (RTA_WANTS_ACTIVATION(#known) && std::strcmp(name, #known) == 0) return Activation::kind;
#include "_common/activations/table.def"
#undef RTA_ROW
  fail("no activation '%s'", name);
}

// A list through the kernels themselves, filled before main by static objects of many files.
static KernelRow *first_row, **next_row = &first_row;
static int row_count;

static void add_row(KernelRow* row) {
  *next_row = row;
  next_row = &row->next;
  ++row_count;
}

Register::Register(void (*register_kernels)()) { register_kernels(); }
Register::Register(const Kernel& kernel) : row_{kernel, nullptr, {}} { add_row(&row_); }

void add_kernel_row(KernelRow* row, Isa isa, const char* op, const char* stem, const char* (*reject)(const Attrs&),
                    Stage* (*create)(const StageSpec&)) {
  const size_t length = std::strlen(stem);
  std::memcpy(row->name, stem, length);
  row->name[length] = '_';
  std::strcpy(row->name + length + 1, isa_name(isa));
  row->kernel = {op, row->name, isa, 10 * static_cast<int>(isa), reject, create};
  add_row(row);
}

const KernelRow* first_kernel() { return first_row; }

// The first letter tells most of a few hundred rows apart.
static bool same(const char* a, const char* b) { return *a == *b && std::strcmp(a, b) == 0; }

const Kernel* find_kernel(const char* op, const char* name) {
  for (const KernelRow* row = first_row; row; row = row->next)
    if (same(row->kernel.op, op) && same(row->kernel.name, name)) return &row->kernel;
  return nullptr;
}

const char* unsuited(const Kernel& kernel, const Attrs& attrs) {
  return kernel.reject ? kernel.reject(attrs) : nullptr;
}

const char* rejected(const Kernel& kernel, const Attrs& attrs) {
  const char* missing = isa_missing(kernel.isa);
  return missing ? missing : unsuited(kernel, attrs);
}

}  // namespace rta

using namespace rta;

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API int rta_abi_version(void) { return RTA_ABI_VERSION; }
RTA_API int rta_kernel_count(void) { return row_count; }
RTA_API rta_kernel rta_kernel_at(int index) {
  const KernelRow* row = first_row;
  while (index-- > 0) row = row->next;
  return {row->kernel.op, row->kernel.name, row->kernel.rank};
}
RTA_API const char* rta_kernel_unsuited(const char* op, const char* name, const rta_attr* attrs, int attr_count) {
  const Kernel* kernel = find_kernel(op, name);
  return kernel ? unsuited(*kernel, Attrs(attrs, attr_count)) : "there is no such kernel in the native core";
}
RTA_API const char* rta_kernel_reject(const char* op, const char* name, const rta_attr* attrs, int attr_count) {
  const Kernel* kernel = find_kernel(op, name);
  return kernel ? rejected(*kernel, Attrs(attrs, attr_count)) : "there is no such kernel in the native core";
}
}
