// Where the memory of plans comes from. It is the heap's and the system's; in a library that `rtaccel pack` makes
// (RTA_PACKED) all of a model lies in one region, which the caller may give: tensors grow from its start, objects of
// C++ from its end, and nothing in it is given back alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rta {

#ifdef RTA_PACKED
class Region {
 public:
  // In the caller's memory; nullptr where it is too small to hold anything.
  static Region* within(void* memory, size_t bytes);
  // In memory of its own: addresses for so many bytes, of which those in use become resident. nullptr: there is none.
  static Region* own(size_t bytes);
  static void release(Region* region);  // gives the system back what is the region's own; nullptr: nothing

  char* tensors(size_t bytes);  // 64-byte aligned and zeroed; fails where no room is left
  void give_back(char* from);   // the tensors that were made last, from there on
  void* object(size_t bytes, size_t alignment);
  char* start() const { return reinterpret_cast<char*>(const_cast<Region*>(this)); }
  bool is_full() const { return is_full_; }  // whether something did not fit
  // Bytes that caller's memory needs for what is in this region, wherever it begins.
  size_t used() const;

 private:
  Region(size_t bytes, bool is_own)
      : size_(bytes), low_(start() + sizeof *this), high_(start() + bytes), own_(is_own) {}
  [[noreturn]] void no_room(size_t bytes);
  size_t size_;
  char *low_, *high_;
  bool own_, is_full_ = false;
};

Region* region_in_use();

// Objects made in this scope, by this thread, are in that region.
class Within {
 public:
  explicit Within(Region* region);
  ~Within();
  Within(const Within&) = delete;

 private:
  Region* before_;
};

// Memory until this thread calls release_temporaries; nullptr where there is none.
void* temporary(size_t bytes);
void release_temporaries();
#else
class Region;
struct Within {
  explicit Within(Region*) {}
  ~Within() {}
};
inline Region* region_in_use() { return nullptr; }
#endif

}  // namespace rta
