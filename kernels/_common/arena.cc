// Memory of packed weights, scratch and states: mappings of their own. native/packed has those of a packed library.
#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "_core/stage.h"

namespace rta {

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
  madvise(base, bytes, MADV_HUGEPAGE);  // advice: where it is not followed, large plans run 1-2 % slower
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

}  // namespace rta
