// What Python sees of a plan.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings/plan.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<Plan>(self)->traverse(visit, arg) : 0;
}

int clear(PyObject* self) {
  nb::inst_ptr<Plan>(self)->clear();
  return 0;
}

// Hooks can refer to the model that holds the plan.
PyType_Slot kSlots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(traverse)}, {Py_tp_clear, reinterpret_cast<void*>(clear)}, {0, nullptr}};

}  // namespace

void add_plan(nb::module_& m) {
  nb::class_<Plan>(m, "Plan", nb::type_slots(kSlots))
      .def(nb::init<size_t>())
      .def("value", &Plan::value)
      .def("stage", &Plan::stage)
      .def("finish", &Plan::finish)
      .def("run", &Plan::run, nb::arg("inputs").none(), nb::arg("outputs").none())
      .def("call", &Plan::call, nb::arg("inputs").none())
      .def("call_some", &Plan::call_some, nb::arg("inputs"), nb::arg("list"))
      .def("run_some", &Plan::run_some, nb::arg("inputs"), nb::arg("outputs"), nb::arg("list"))
      .def("save_stream", &Plan::save_stream, nb::arg("stream"))
      .def("load_stream", &Plan::load_stream, nb::arg("stream"), nb::arg("state"))
      .def("call_flat", &Plan::call_flat, nb::arg("inputs").none())
      .def("nesting", &Plan::nesting, nb::arg("inputs"), nb::arg("input_keys"), nb::arg("outputs"),
           nb::arg("output_keys"))
      .def("adopt", &Plan::adopt, nb::arg("other"))
      .def("swap", &Plan::swap, nb::arg("other"))
      .def("rollback", &Plan::rollback)
      .def_prop_ro("pending", &Plan::pending)
      .def("guard", &Plan::guard, nb::arg("dicts"))
      .def("profile", &Plan::profile, nb::arg("inputs"), nb::arg("outputs"), nb::arg("calls"))
      .def("reset", &Plan::reset, nb::arg("first"), nb::arg("count"))
      .def("save_state", &Plan::save_state)
      .def("load_state", &Plan::load_state)
      .def("prefault", &Plan::prefault)
      .def("lock", &Plan::lock)
      .def("parts", &Plan::parts, nb::arg("stage"), nb::arg("samples"))
      .def_prop_ro("running_threads", &Plan::running_threads)
      .def_prop_ro("state_bytes", &Plan::state_bytes)
      .def_prop_ro("packed_bytes", &Plan::packed_bytes)
      .def_prop_ro("scratch_bytes", &Plan::scratch_bytes);
}

}  // namespace rta_torch
