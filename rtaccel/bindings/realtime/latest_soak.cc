// Puts and gets as fast as they go, without Python between them: for soak tests and for measuring. Values are int64
// words that all hold the number of the put, so a torn one shows.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bindings/realtime/latest.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

// ns per put; the first number is `first`. Negative: an rta_latest_error.
double soak_put(nb::object slot, int64_t count, int64_t first) {
  rta_latest* core = latest_of(slot);
  const size_t words = rta_latest_describe(core)->payload_bytes / sizeof(int64_t);
  std::vector<int64_t> value(words);
  const nb::gil_scoped_release release;
  const int64_t began = rta_latest_now_ns();
  for (int64_t i = 0; i < count; ++i) {
    std::fill(value.begin(), value.end(), first + i);
    const int64_t seq = rta_latest_put(core, value.data(), 0);
    if (seq < 0) return static_cast<double>(seq);
  }
  return static_cast<double>(rta_latest_now_ns() - began) / static_cast<double>(count);
}

// (torn, backward, new, ns per get). `until` > 0: not before a value with at least this number was seen.
std::tuple<int64_t, int64_t, int64_t, double> soak_get(nb::object slot, int64_t count, int64_t until) {
  rta_latest* core = latest_of(slot);
  const size_t words = rta_latest_describe(core)->payload_bytes / sizeof(int64_t);
  int64_t torn = 0, backward = 0, fresh = 0, last = 0, last_seq = 0, reads = 0;
  const nb::gil_scoped_release release;
  const int64_t began = rta_latest_now_ns();
  for (; reads < count || last < until; ++reads) {
    rta_latest_sample got;
    if (const int code = rta_latest_get(core, &got)) return {code, code, code, 0.0};
    if (got.status == RTA_LATEST_NONE) continue;
    const auto* value = static_cast<const int64_t*>(got.data);
    const int64_t number = value[0];
    bool whole = true;
    for (size_t w = 1; w < words; ++w) whole &= value[w] == number;
    torn += !whole;
    backward +=
        number < last || got.seq < last_seq || (last_seq && (got.status == RTA_LATEST_NEW) != (got.seq > last_seq));
    fresh += got.status == RTA_LATEST_NEW;
    last = number;
    last_seq = got.seq;
  }
  const double ns = static_cast<double>(rta_latest_now_ns() - began) / static_cast<double>(reads ? reads : 1);
  return {torn, backward, fresh, ns};
}

}  // namespace

void add_latest_soak(nb::module_& m) {
  m.def("latest_soak_put", &soak_put, nb::arg("slot"), nb::arg("count"), nb::arg("first") = 1);
  m.def("latest_soak_get", &soak_get, nb::arg("slot"), nb::arg("count"), nb::arg("until") = 0);
}

}  // namespace rta_torch
