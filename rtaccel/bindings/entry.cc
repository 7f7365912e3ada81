#include "bindings/entry.h"

#include <nanobind/stl/string.h>
#include <structmember.h>

#include <string>

#include "bindings/plan.h"

// A Python function that takes *inputs and hands them on costs 0.15 to 0.3 us: a tuple, a dict and a frame. This one
// costs what the vectorcall protocol does.

namespace nb = nanobind;

namespace rta_torch {
namespace {

struct Entry {
  PyObject ob_base;
  vectorcallfunc vectorcall;
  PyObject* method;
  bool runs;
};

// An entry and the model it was looked up on. nn.Module's attribute lookup makes one for every call.
struct BoundEntry {
  PyObject ob_base;
  vectorcallfunc vectorcall;
  Entry* entry;
  PyObject* self;
};

PyObject* direct_name = nullptr;
PyTypeObject *plan_type = nullptr, *entry_type = nullptr, *bound_type = nullptr;

template <class T>
T* as(PyObject* object) {
  return reinterpret_cast<T*>(object);
}

bool is_out(PyObject* names) {
  return names && PyTuple_Size(names) == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "out") == 0;
}

// The result, or a null object where the general way is to be taken. args: what follows `self`.
nb::object at_once(const Entry& entry, PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  if (entry.runs ? !is_out(names) : names && PyTuple_Size(names) != 0) return {};
  const nb::object direct = nb::steal(PyObject_GenericGetAttr(self, direct_name));
  if (!direct.is_valid()) PyErr_Clear();
  if (!direct.is_valid() || Py_TYPE(direct.ptr()) != plan_type) return {};
  const Plan& plan = *nb::inst_ptr<Plan>(direct);
  if (entry.runs) return plan.run_given(args, count, args[count]) ? nb::borrow(args[count]) : nb::object();
  if (!plan.guarded()) return {};
  nb::object result = plan.call_given(args, count);
  return result.is_none() ? nb::object() : result;
}

// True where `result` (null with an error set) is what the call gives.
bool tried(const Entry& entry, PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names,
           PyObject*& result) {
  try {
    result = at_once(entry, self, args, count, names).release().ptr();
    return result != nullptr;
  } catch (nb::python_error& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  result = nullptr;
  return true;
}

PyObject* call_entry(PyObject* object, PyObject* const* args, size_t count_and_flag, PyObject* names) {
  const Entry& entry = *as<Entry>(object);
  const Py_ssize_t count = PyVectorcall_NARGS(count_and_flag);
  PyObject* result;
  if (count > 0 && tried(entry, args[0], args + 1, count - 1, names, result)) return result;
  return PyObject_Vectorcall(entry.method, args, count_and_flag, names);
}

PyObject* call_bound(PyObject* object, PyObject* const* args, size_t count_and_flag, PyObject* names) {
  const BoundEntry& bound = *as<BoundEntry>(object);
  const Py_ssize_t count = PyVectorcall_NARGS(count_and_flag);
  PyObject* result;
  if (tried(*bound.entry, bound.self, args, count, names, result)) return result;
  const nb::object method = nb::steal(PyObject_CallMethod(bound.entry->method, "__get__", "O", bound.self));
  return method.is_valid() ? PyObject_Vectorcall(method.ptr(), args, count_and_flag, names) : nullptr;
}

PyObject* bind(PyObject* entry, PyObject* self, PyObject*) {
  if (!self) return Py_NewRef(entry);
  BoundEntry* made = PyObject_GC_New(BoundEntry, bound_type);
  if (!made) return nullptr;
  made->vectorcall = call_bound;
  made->entry = as<Entry>(Py_NewRef(entry));
  made->self = Py_NewRef(self);
  PyObject_GC_Track(made);
  return reinterpret_cast<PyObject*>(made);
}

// Everything else (name, signature, text) is the method's own.
PyObject* attribute(PyObject* object, PyObject* name) {
  if (PyUnicode_CompareWithASCIIString(name, "__class__") == 0) return PyObject_GenericGetAttr(object, name);
  if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0) return Py_NewRef(as<Entry>(object)->method);
  return PyObject_GetAttr(as<Entry>(object)->method, name);
}

PyObject* bound_attribute(PyObject* object, PyObject* name) {
  const BoundEntry& bound = *as<BoundEntry>(object);
  if (PyUnicode_CompareWithASCIIString(name, "__class__") == 0) return PyObject_GenericGetAttr(object, name);
  if (PyUnicode_CompareWithASCIIString(name, "__self__") == 0) return Py_NewRef(bound.self);
  const nb::object method = nb::steal(PyObject_CallMethod(bound.entry->method, "__get__", "O", bound.self));
  if (!method.is_valid()) return nullptr;
  if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0) return Py_NewRef(method.ptr());
  return PyObject_GetAttr(method.ptr(), name);
}

int traverse_bound(PyObject* object, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(as<BoundEntry>(object)->self);
  return 0;
}

void destroy_bound(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  Py_DECREF(reinterpret_cast<PyObject*>(as<BoundEntry>(object)->entry));
  Py_DECREF(as<BoundEntry>(object)->self);
  PyObject_GC_Del(object);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

void destroy(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  Py_DECREF(as<Entry>(object)->method);
  PyObject_Free(object);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(Entry, vectorcall), READONLY, nullptr}, {}};
PyMemberDef bound_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(BoundEntry, vectorcall), READONLY, nullptr}, {}};

PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                       {Py_tp_descr_get, reinterpret_cast<void*>(bind)},
                       {Py_tp_getattro, reinterpret_cast<void*>(attribute)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                       {Py_tp_members, members},
                       {0, nullptr}};
PyType_Slot bound_slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                             {Py_tp_getattro, reinterpret_cast<void*>(bound_attribute)},
                             {Py_tp_traverse, reinterpret_cast<void*>(traverse_bound)},
                             {Py_tp_dealloc, reinterpret_cast<void*>(destroy_bound)},
                             {Py_tp_members, bound_members},
                             {0, nullptr}};

constexpr unsigned kFlags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION;
PyType_Spec spec{"rtaccel._native.Entry", sizeof(Entry), 0, kFlags | Py_TPFLAGS_METHOD_DESCRIPTOR, slots};
PyType_Spec bound_spec{"rtaccel._native.BoundEntry", sizeof(BoundEntry), 0, kFlags | Py_TPFLAGS_HAVE_GC, bound_slots};

nb::object entry(const std::string& kind, nb::handle method) {
  if (kind != "call" && kind != "run") throw nb::value_error("an entry is 'call' or 'run'");
  Entry* made = PyObject_New(Entry, entry_type);
  if (!made) throw nb::python_error();
  made->vectorcall = call_entry;
  made->method = method.inc_ref().ptr();
  made->runs = kind == "run";
  return nb::steal(reinterpret_cast<PyObject*>(made));
}

}  // namespace

void add_entry(nb::module_& m) {
  entry_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  bound_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&bound_spec));
  plan_type = reinterpret_cast<PyTypeObject*>(nb::type<Plan>().ptr());
  direct_name = PyUnicode_InternFromString("_direct");
  if (!plan_type || !entry_type || !bound_type || !direct_name) throw nb::python_error();
  m.def("entry", &entry, nb::arg("kind"), nb::arg("method"));
}

}  // namespace rta_torch
