#include "bindings/batcher/workers.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "rta_batcher.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

class Workers {
 public:
  Workers(const std::vector<int>& cores, int priority, bool manual) {
    const rta_workers_config c = {static_cast<int>(cores.size()), cores.data(), priority, manual};
    const nb::gil_scoped_release release;
    core_ = rta_workers_create(&c);
    if (!core_) throw nb::value_error(rta_batcher_error_text());
  }
  Workers(const Workers&) = delete;
  ~Workers() {
    const nb::gil_scoped_release release;
    rta_workers_destroy(core_);
  }

  std::string refused() const { return rta_workers_refused(core_); }

  // False while batchers use them.
  bool stop() {
    const nb::gil_scoped_release release;
    return rta_workers_stop(core_) == 0;
  }

  nb::tuple stats() const {
    rta_workers_stats s;
    rta_workers_statistics(core_, &s);
    return nb::make_tuple(s.batchers, s.batches, static_cast<double>(s.busy_ns) * 1e-3);
  }

  // (address of the batcher whose batch left, or 0; when they would look again)
  nb::tuple turn(int64_t now, int64_t took) {
    int64_t until;
    rta_batcher* left = rta_workers_turn(core_, now, took, &until);
    return nb::make_tuple(reinterpret_cast<int64_t>(left), until);
  }

  rta_workers* get() const { return core_; }

 private:
  rta_workers* core_ = nullptr;
};

}  // namespace

rta_workers* workers_of(nb::handle object) { return nb::cast<Workers&>(object).get(); }

void add_workers(nb::module_& m) {
  nb::class_<Workers>(m, "Workers", "The native side of rtaccel.BatchWorkers.")
      .def(nb::init<const std::vector<int>&, int, bool>(), nb::arg("cores"), nb::arg("priority"), nb::arg("manual"))
      .def("refused", &Workers::refused)
      .def("stop", &Workers::stop)
      .def("stats", &Workers::stats)
      .def("turn", &Workers::turn);
}

}  // namespace rta_torch
