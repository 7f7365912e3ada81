// The nanobind module over the C ABI: what Python sees of the native core.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "_core/rta_plan.h"
#include "bindings/artifact/model.h"
#include "bindings/attributes.h"
#include "bindings/batcher/batcher.h"
#include "bindings/cascade/cascade.h"
#include "bindings/entry.h"
#include "bindings/frames/frames.h"
#include "bindings/mailbox.h"
#include "bindings/online/online.h"
#include "bindings/plan.h"
#include "bindings/realtime/latest.h"
#include "bindings/realtime/loop.h"
#include "bindings/remote/remote.h"
#include "bindings/timer.h"
#include "bindings/weights/rounding.h"

namespace nb = nanobind;
using namespace rta_torch;

namespace {

// A plan with its tensors: they are kept alive, and a call is the bare native run.
class Bound {
 public:
  Bound(nb::object plan, nb::object inputs, nb::object outputs) : owner_(plan), plan_(nb::cast<const Plan*>(plan)) {
    if (!plan_->fits(inputs, outputs, pointers_)) throw nb::value_error("tensors do not fit the plan");
    held_ = plan_->tensors(inputs, outputs);
  }
  void operator()() const { plan_->run_bound(pointers_); }
  // As bindings/timer.h: the time without that of a call from Python.
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  nb::object owner_, held_;  // the tensors themselves, for a list or dict may get others; and their memory
  const Plan* plan_;
  Pointers pointers_;
};

std::string reject(const std::string& op, const std::string& name, nb::dict given) {
  std::vector<std::string> texts;
  const std::vector<rta_attr> attrs = attributes(given, texts);
  const char* reason = rta_kernel_reject(op.c_str(), name.c_str(), attrs.data(), static_cast<int>(attrs.size()));
  return reason ? reason : "";
}

std::string unsuited(const std::string& op, const std::string& name, nb::dict given) {
  std::vector<std::string> texts;
  const std::vector<rta_attr> attrs = attributes(given, texts);
  const char* reason = rta_kernel_unsuited(op.c_str(), name.c_str(), attrs.data(), static_cast<int>(attrs.size()));
  return reason ? reason : "";
}

std::vector<std::tuple<std::string, std::string, int>> kernels() {
  std::vector<std::tuple<std::string, std::string, int>> all;
  for (int i = 0; i < rta_kernel_count(); ++i) {
    const rta_kernel k = rta_kernel_at(i);
    all.emplace_back(k.op, k.name, k.rank);
  }
  return all;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // torch's compiler may hold plans until the interpreter is gone
  m.doc() = "Native core of rtaccel. Internal: use rtaccel.compile and rtaccel.nn.";
  m.def("abi_version", &rta_abi_version);
  m.def("code_bytes", &rta_code_bytes);
  m.def("isa", [] { return std::string(rta_isa()); });
  m.def("isas", [] {
    std::vector<std::string> names;
    while (const char* name = rta_isa_name(static_cast<int>(names.size()))) names.emplace_back(name);
    return names;
  });
  m.def("kernels", &kernels, "(op, name, rank) of every kernel");
  m.def("reject", &reject, "reason why a kernel cannot compute a problem, or an empty string");
  m.def("unsuited", &unsuited, "the same for any processor");
  m.def("connect", &connect);
  m.def("knows_negative_bit", &knows_negative_bit);
  add_plan(m);
  add_batcher(m);
  add_entry(m);
  add_cascade(m);
  rta_frames::add_frames(m);
  rta_remote_py::add_remote(m);
  rta_weights::add_rounding(m);
  add_latest(m);
  add_loop(m);
  add_mailbox(m);
  rta_model_py::add_model(m);
  rta_online::add_online(m);
  nb::class_<Bound>(m, "Bound", "A compiled model bound to its tensors: call it to read and write them.")
      .def(nb::init<nb::object, nb::object, nb::object>(), nb::arg("plan"), nb::arg("inputs").none(),
           nb::arg("outputs").none())
      .def("__call__", &Bound::operator())
      .def("time", &Bound::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
  rta_timer::add_to(m);
}
