// Regions, and what C++ asks its run-time library for, in a library for one model. The packer keeps these names within
// the library: a program has its own `operator new`.
#include "_core/memory.h"

#if !defined(__wasm__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <cstring>
#include <new>

#include "_core/stage.h"

namespace rta {
namespace {

thread_local Region* in_use = nullptr;

struct Temporary {
  void* start;
  size_t bytes;
};
constexpr int kMostTemporaries = 4;
thread_local Temporary temporaries[kMostTemporaries];
thread_local int temporary_count = 0;

#if defined(__wasm__)  // all memory is the page's, and a model lies in what it gives
void* mapped(size_t) { return nullptr; }
void unmapped(void*, size_t) {}
#else
void* mapped(size_t bytes) {
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return start == MAP_FAILED ? nullptr : start;
}
void unmapped(void* start, size_t bytes) { munmap(start, bytes); }
#endif

}  // namespace

Region* region_in_use() { return in_use; }

Within::Within(Region* region) : before_(in_use) { in_use = region; }
Within::~Within() { in_use = before_; }

Region* Region::within(void* memory, size_t bytes) {
  const size_t skip = (64 - reinterpret_cast<uintptr_t>(memory) % 64) % 64;
  if (!memory || bytes < skip + 2 * sizeof(Region)) return nullptr;
  return new (static_cast<char*>(memory) + skip) Region((bytes - skip) / 64 * 64, false);
}

Region* Region::own(size_t bytes) {
  void* start = mapped(bytes);
  return start ? new (start) Region(bytes, true) : nullptr;
}

void Region::release(Region* region) {
  if (region && region->own_) unmapped(region, region->size_);
}

void Region::no_room(size_t bytes) {
  is_full_ = true;
  fail("%zu bytes more do not fit into the %zu of memory that are given", bytes, size_);
}

char* Region::tensors(size_t bytes) {
  char* at = start() + (static_cast<size_t>(low_ - start()) + 63) / 64 * 64;
  if (at > high_ || bytes > static_cast<size_t>(high_ - at)) no_room(bytes);
  low_ = at + bytes;
  if (!own_) std::memset(at, 0, bytes);
  return at;
}

void Region::give_back(char* from) {
  std::memset(from, 0, static_cast<size_t>(low_ - from));
  low_ = from;
}

void* Region::object(size_t bytes, size_t alignment) {
  const size_t room = static_cast<size_t>(high_ - low_);
  if (alignment < 16) alignment = 16;
  if (bytes > room || room - bytes < alignment) no_room(bytes);
  high_ -= bytes;
  high_ -= reinterpret_cast<uintptr_t>(high_) % alignment;
  return high_;
}

size_t Region::used() const {
  const size_t objects = static_cast<size_t>(start() + size_ - high_);
  return (static_cast<size_t>(low_ - start()) + 63) / 64 * 64 + (objects + 63) / 64 * 64 + 128;
}

void* temporary(size_t bytes) {
  void* start = temporary_count < kMostTemporaries ? mapped(bytes) : nullptr;
  if (start) temporaries[temporary_count++] = {start, bytes};
  return start;
}

void release_temporaries() {
  while (temporary_count) {
    const Temporary& last = temporaries[--temporary_count];
    unmapped(last.start, last.bytes);
  }
}

static void* made(size_t bytes, size_t alignment) {
  if (!in_use) fail("a packed library opens models from files; plans that a program builds need librtaccel");
  return in_use->object(bytes, alignment);
}

}  // namespace rta

void* operator new(size_t bytes) { return rta::made(bytes, 16); }
void* operator new[](size_t bytes) { return rta::made(bytes, 16); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return rta::made(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return rta::made(bytes, 16); }
void operator delete(void*) noexcept {}
void operator delete[](void*) noexcept {}
void operator delete(void*, size_t) noexcept {}
void operator delete[](void*, size_t) noexcept {}
void operator delete(void*, const std::nothrow_t&) noexcept {}
void operator delete(void*, std::align_val_t) noexcept {}
void operator delete(void*, size_t, std::align_val_t) noexcept {}

// Where the sizes of containers run over; the loader bounds them before.
namespace std {
const nothrow_t nothrow = nothrow_t();
#ifdef _LIBCPP_VERSION
inline namespace __1 {
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) noexcept { ::abort(); }
}  // namespace __1
#else
[[noreturn]] void __throw_length_error(const char* what) { ::rta::fail("%s", what); }
[[noreturn]] void __throw_out_of_range_fmt(const char* what, ...) { ::rta::fail("%s", what); }
[[noreturn]] void __throw_bad_alloc() { ::rta::fail("no memory"); }
[[noreturn]] void __throw_bad_array_new_length() { ::rta::fail("no memory"); }
[[noreturn]] void __throw_logic_error(const char* what) { ::rta::fail("%s", what); }
[[noreturn]] void __throw_bad_function_call() { ::abort(); }
#endif
}  // namespace std

// Objects in functions that are made once: the first thread makes them, others wait.
extern "C" {
[[noreturn]] void __cxa_pure_virtual() { std::abort(); }
int __cxa_guard_acquire(uint64_t* guard) {
  auto* state = reinterpret_cast<unsigned char*>(guard);  // byte 0: done, byte 1: under way
  if (__atomic_load_n(state, __ATOMIC_ACQUIRE)) return 0;
  while (__atomic_exchange_n(state + 1, 1, __ATOMIC_ACQUIRE))
    if (__atomic_load_n(state, __ATOMIC_ACQUIRE)) return 0;
  if (!__atomic_load_n(state, __ATOMIC_ACQUIRE)) return 1;
  __atomic_store_n(state + 1, 0, __ATOMIC_RELEASE);
  return 0;
}
void __cxa_guard_release(uint64_t* guard) {
  auto* state = reinterpret_cast<unsigned char*>(guard);
  __atomic_store_n(state, 1, __ATOMIC_RELEASE);
  __atomic_store_n(state + 1, 0, __ATOMIC_RELEASE);
}
void __cxa_guard_abort(uint64_t* guard) {
  __atomic_store_n(reinterpret_cast<unsigned char*>(guard) + 1, 0, __ATOMIC_RELEASE);
}
}
