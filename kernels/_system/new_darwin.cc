// `operator new` and `delete` of this library alone, on macOS: compiled to be hidden (cmake/darwin.cmake). Zig's linker
// takes no list of symbols to show, and those of its libc++ would take the place of a program's own.
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

void* taken(size_t bytes, size_t alignment) {
  const size_t whole = (bytes + alignment) / alignment * alignment;
  void* memory =
      alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__ ? std::malloc(whole) : std::aligned_alloc(alignment, whole);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

using Alignment = std::align_val_t;
constexpr size_t kAny = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

void* operator new(size_t bytes) { return taken(bytes, kAny); }
void* operator new[](size_t bytes) { return taken(bytes, kAny); }
void* operator new(size_t bytes, Alignment to) { return taken(bytes, static_cast<size_t>(to)); }
void* operator new[](size_t bytes, Alignment to) { return taken(bytes, static_cast<size_t>(to)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes ? bytes : 1); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes ? bytes : 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, Alignment) noexcept { std::free(memory); }
void operator delete[](void* memory, Alignment) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, Alignment) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, Alignment) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
