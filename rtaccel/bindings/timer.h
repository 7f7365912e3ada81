// The loop of a measurement, in C++: between two clock readings lies the call and nothing else.
#pragma once

#include <nanobind/nanobind.h>
#include <stdint.h>

namespace rta_timer {

// Nanoseconds of CLOCK_MONOTONIC, which is Python's time.perf_counter_ns on POSIX systems.
int64_t now_ns();

// A buffer of int64 that Python owns, held for the time of a loop.
class Samples {
 public:
  Samples(nanobind::handle object, int64_t start, int64_t stop);  // throws where it is too small or of another type
  ~Samples() { PyBuffer_Release(&view_); }
  Samples(const Samples&) = delete;
  int64_t& operator[](int64_t i) const { return static_cast<int64_t*>(view_.buf)[i]; }

 private:
  Py_buffer view_;
};

// Times a call that needs no Python, into out[start:stop], until one ends at or after the deadline; the next free
// index.
template <class Call>
int64_t time_native(const Call& call, nanobind::handle out, int64_t start, int64_t stop, int64_t deadline) {
  const Samples samples(out, start, stop);
  for (int64_t i = start; i < stop; ++i) {
    const int64_t begin = now_ns();
    call();
    const int64_t end = now_ns();
    samples[i] = end - begin;
    if (end >= deadline) return i + 1;
  }
  return stop;
}

void add_to(nanobind::module_& m);

}  // namespace rta_timer
