// libgdrapi in miniature, for a machine without a card: "memory of the card" is a file in memory, and a mapping is a
// second view of its pages. So what the host writes at one address is read at another, and nowhere else.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace {

constexpr uintptr_t kPage = 64 << 10;

struct Memory {
  uintptr_t begin;
  size_t size;
  int file;
};
struct Pinned {
  uintptr_t page;
  size_t size;
  const Memory* memory;
  bool mapped;
};

std::vector<Memory> memories;
std::vector<Pinned> pinned;
bool is_closed = false;
int failing = 0;
int opened;

}  // namespace

extern "C" {

struct Handle {
  unsigned long h;
};

// -- for tests
// ---------------------------------------------------------------------------------------------------------

void stand_in_is(int closed, int fails) {
  is_closed = closed;
  failing = fails;
}

// Memory of the card that does not begin with one of its pages.
uint64_t stand_in_allocate(size_t size) {
  memories.reserve(64);
  const int file = memfd_create("memory of the card", 0);
  const size_t whole = (size + 2 * kPage) / kPage * kPage;
  if (file < 0 || ftruncate(file, static_cast<off_t>(whole))) return 0;
  // To an address that a page of the card divides: of twice as much, the part that is.
  void* room = mmap(nullptr, whole + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(room) + kPage - 1) / kPage * kPage;
  mmap(reinterpret_cast<void*>(begin), whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
  memories.push_back({begin, whole, file});
  return begin + 512;
}

// -- of the library
// ----------------------------------------------------------------------------------------------------

void* gdr_open() { return is_closed ? nullptr : &opened; }

int gdr_pin_buffer(void* g, unsigned long address, size_t size, uint64_t, uint32_t, Handle* handle) {
  if (g != &opened || size == 0) return EINVAL;
  if (failing) return failing;
  for (const Memory& memory : memories) {
    const uintptr_t page = address / kPage * kPage;
    if (page >= memory.begin && address + size <= memory.begin + memory.size) {
      pinned.push_back({page, size, &memory, false});
      handle->h = pinned.size();
      return 0;
    }
  }
  return ENOMEM;
}

int gdr_map(void* g, Handle handle, void** address, size_t size) {
  if (g != &opened || handle.h == 0 || handle.h > pinned.size()) return EINVAL;
  Pinned& of = pinned[handle.h - 1];
  if (of.mapped || size > of.size) return EINVAL;
  const off_t offset = static_cast<off_t>(of.page - of.memory->begin);
  *address =
      mmap(nullptr, (size + kPage - 1) / kPage * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, of.memory->file, offset);
  of.mapped = true;
  return *address == MAP_FAILED ? EAGAIN : 0;
}

struct Info {
  uint64_t va, mapped_size;
  uint32_t page_size;
  uint64_t tm_cycles;
  uint32_t cycles_per_ms;
  unsigned mapped : 1, wc_mapping : 1;
};

int gdr_get_info(void* g, Handle handle, Info* info) {
  if (g != &opened || handle.h == 0 || handle.h > pinned.size()) return EINVAL;
  const Pinned& of = pinned[handle.h - 1];
  *info = {of.page, of.size, static_cast<uint32_t>(kPage), 0, 1, of.mapped, 1};
  return 0;
}
}
