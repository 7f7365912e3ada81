// Memory of packed weights, scratch and states in a packed library: the start of the model's region, back to back. One
// arena grows at a time.
#if !defined(__wasm__)
#include <sys/mman.h>
#endif

#include "_core/memory.h"
#include "_core/stage.h"

namespace rta {

void watch(void*, size_t) {}
bool is_watched() { return false; }

Arena::Arena(size_t bytes, bool) : capacity_((bytes + 63) / 64 * 64), gaps_(false) {
  if (uint64_t{bytes} > uint64_t{1} << 46) fail("no memory for %zu bytes", bytes);
}
Arena::~Arena() = default;

void* Arena::take(size_t bytes) {
  const size_t left = capacity_ - used_, rounded = bytes > left ? bytes : (bytes + 63) / 64 * 64;
  if (rounded > left) fail("a stage wants %zu bytes of the %zu left for weights", bytes, left);
  char* at = region_in_use()->tensors(rounded);
  if (!base_) base_ = at;
  used_ += rounded;
  end_ = used_;
  return at;
}

void Arena::give_back(Mark to) {
  if (to.end == end_) return;
  region_in_use()->give_back(base_ + to.end);
  used_ = end_ = to.end;
}

size_t Arena::populate(bool write) {
  constexpr uintptr_t kPage = 4096;
  volatile char* const end = base_ + end_;
  for (volatile char* at = base_; at < end; at += kPage - reinterpret_cast<uintptr_t>(at) % kPage) {
    if (write)
      *at = *at;
    else
      static_cast<void>(*at);
  }
  return end_;
}

bool Arena::lock() {
#if defined(__wasm__)
  return false;  // a page's memory is its browser's
#else
  return end_ == 0 || mlock(base_, end_) == 0;
#endif
}

}  // namespace rta
