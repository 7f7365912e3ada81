#include "bindings/timer.h"

#include <string.h>
#include <time.h>

#include <stdexcept>
#include <vector>

namespace nb = nanobind;

namespace rta_timer {

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

Samples::Samples(nb::handle object, int64_t start, int64_t stop) {
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_CONTIG | PyBUF_FORMAT) != 0) throw nb::python_error();
  const bool int64 = view_.itemsize == 8 && view_.format && (!strcmp(view_.format, "q") || !strcmp(view_.format, "l"));
  if (int64 && 0 <= start && start <= stop && stop <= view_.len / 8) return;
  PyBuffer_Release(&view_);
  throw nb::value_error("the samples need a writable int64 buffer that holds all of them");
}

namespace {

constexpr int64_t kSignalsEvery = 1024;

// A chain of dependent multiplications: as long as the core's clock makes it, whatever the caches hold.
uint64_t chain(int64_t iterations, uint64_t x) {
  for (int64_t i = 0; i < iterations; ++i) x = x * 6364136223846793005u + 1442695040888963407u;
  return x;
}

volatile uint64_t sink;

void spin(int64_t iterations) { sink = chain(iterations, sink); }

// Passes `ns` by the clock: a call of known length.
void busy(int64_t ns) {
  const int64_t end = now_ns() + ns;
  while (now_ns() < end) {
  }
}

// The arguments of a call, as the vectorcall protocol takes them: one free place in front.
class Arguments {
 public:
  explicit Arguments(nb::handle tuple) { take(tuple.ptr()); }
  void take(PyObject* tuple) {
    held_ = nb::borrow(tuple);
    const Py_ssize_t size = PyTuple_Size(tuple);
    if (size < 0) throw nb::python_error();
    items_.resize(static_cast<size_t>(size) + 1);
    for (Py_ssize_t i = 0; i < size; ++i) items_[static_cast<size_t>(i) + 1] = PyTuple_GetItem(tuple, i);
  }
  PyObject* call(PyObject* callable) {
    return PyObject_Vectorcall(callable, items_.data() + 1, (items_.size() - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               nullptr);
  }

 private:
  nb::object held_;
  std::vector<PyObject*> items_;
};

void prepare(nb::handle before, Arguments& arguments) {
  nb::object fresh = nb::steal(PyObject_CallNoArgs(before.ptr()));
  if (!fresh.is_valid()) throw nb::python_error();
  if (fresh.is_none()) return;
  if (!PyTuple_CheckExact(fresh.ptr())) throw nb::type_error("what runs before a call returns None or a tuple");
  arguments.take(fresh.ptr());
}

// Times call(*args) into out[start:stop], until one ends at or after the deadline; returns the next free index. What a
// call returns is released within its time, as a caller would. The reading that ends a call begins the next one.
int64_t time_calls(nb::handle call, nb::handle args, nb::handle out, int64_t start, int64_t stop, int64_t deadline) {
  const Samples samples(out, start, stop);
  Arguments arguments(args);
  int64_t begin = now_ns();
  for (int64_t i = start; i < stop; ++i) {
    PyObject* result = arguments.call(call.ptr());
    if (!result) throw nb::python_error();
    Py_DECREF(result);
    const int64_t end = now_ns();
    samples[i] = end - begin;
    if (end >= deadline) return i + 1;
    begin = end;
    if (i % kSignalsEvery == 0) {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      begin = now_ns();
    }
  }
  return stop;
}

// The same with something before each call, outside of its time.
//
// before: None, or called first; a tuple that it returns replaces the arguments. spin_iterations > 0: then so long a
// chain is timed into spin_out. period > 0: call i is meant to start at first + i * period, and its time counts from
// then, however late it starts.
int64_t time_prepared_calls(nb::handle call, nb::handle args, nb::handle out, int64_t start, int64_t stop,
                            int64_t deadline, nb::handle before, int64_t first, int64_t period, int64_t spin_iterations,
                            nb::handle spin_out) {
  const Samples samples(out, start, stop);
  const Samples spins(spin_iterations > 0 ? spin_out : out, start, stop);
  const bool prepares = !before.is_none();
  Arguments arguments(args);
  for (int64_t i = start; i < stop; ++i) {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (prepares) prepare(before, arguments);
    int64_t begin = now_ns();
    if (spin_iterations > 0) {
      spin(spin_iterations);
      const int64_t end = now_ns();
      spins[i] = end - begin;
      begin = end;
    }
    if (period > 0) {
      while (begin < first + i * period) begin = now_ns();
      begin = first + i * period;
    }
    PyObject* result = arguments.call(call.ptr());
    if (!result) throw nb::python_error();
    Py_DECREF(result);
    const int64_t end = now_ns();
    samples[i] = end - begin;
    if (end >= deadline) return i + 1;
  }
  return stop;
}

// Reads a byte of each cache line of a buffer, so that what was in the caches before is not any more.
void read_lines(nb::handle buffer) {
  Py_buffer view;
  if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
  uint64_t sum = 0;
  for (Py_ssize_t i = 0; i < view.len; i += 64) sum += static_cast<const uint8_t*>(view.buf)[i];
  sink = sum;
  PyBuffer_Release(&view);
}

// A fixed amount of work of three kinds: a chain of multiplications (the clock), sums over 32 KiB (first cache,
// throughput) and a chase through 512 KiB (second cache, latency). Its nanoseconds; changing it makes recorded ones
// worthless.
int64_t yardstick() {
  static std::vector<float> numbers(8192, 1.0f);
  static std::vector<uint32_t> next;
  if (next.empty()) {
    constexpr uint32_t kPlaces = 131072, kStride = 50021;  // odd: the walk meets every place before it returns
    next.resize(kPlaces);
    for (uint32_t i = 0; i < kPlaces; ++i) next[i] = (i + kStride) % kPlaces;
  }
  const int64_t begin = now_ns();
  spin(4000);
  float sums[8] = {};
  for (int pass = 0; pass < 4; ++pass)
    for (size_t i = 0; i < numbers.size(); i += 8)
      for (size_t j = 0; j < 8; ++j) sums[j] += numbers[i + j];
  uint32_t place = static_cast<uint32_t>(sums[0]) & 1;
  for (int i = 0; i < 1000; ++i) place = next[place];
  sink = place;
  return now_ns() - begin;
}

PyObject* nothing(PyObject*, PyObject* const*, Py_ssize_t) { Py_RETURN_NONE; }

PyMethodDef nothing_def = {"nothing", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&nothing)),
                           METH_FASTCALL, "Does nothing with its arguments: what is left is the cost of the timer."};

}  // namespace

void add_to(nb::module_& m) {
  m.def("now_ns", &now_ns);
  m.def("spin", &spin, nb::arg("iterations"));
  m.def("busy", &busy, nb::arg("ns"));
  m.def("time_calls", &time_calls, nb::arg("call"), nb::arg("args"), nb::arg("out"), nb::arg("start"), nb::arg("stop"),
        nb::arg("deadline"));
  m.def("time_prepared_calls", &time_prepared_calls, nb::arg("call"), nb::arg("args"), nb::arg("out"), nb::arg("start"),
        nb::arg("stop"), nb::arg("deadline"), nb::arg("before").none(), nb::arg("first"), nb::arg("period"),
        nb::arg("spin_iterations"), nb::arg("spin_out").none());
  m.def("read_lines", &read_lines, nb::arg("buffer"));
  m.def("yardstick", &yardstick);
  PyObject* function = PyCFunction_New(&nothing_def, nullptr);
  if (!function) throw nb::python_error();
  m.attr("nothing") = nb::steal(function);
}

}  // namespace rta_timer
