#include "native_tensor.h"

#include <stdexcept>

namespace nb = nanobind;

namespace rta_torch {
namespace {

// torch, as far as this module knows it. Set once by `connect`.
const dlpack::ExchangeApi* exchange = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject *is_neg = nullptr, *refuse = nullptr;

constexpr Dtype kDtypes[] = {
    {"float32", RTA_FLOAT32, dlpack::kFloat, 4}, {"int8", RTA_INT8, dlpack::kInt, 1},
    {"int64", RTA_INT64, dlpack::kInt, 8},       {"int32", RTA_INT32, dlpack::kInt, 4},
    {"uint8", RTA_UINT8, dlpack::kUnsigned, 1},  {"bfloat16", RTA_BFLOAT16, dlpack::kBfloat, 2},
};

// What `allocate` gives, as the DLPack specification lays it out.
struct Managed {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Managed*);
  uint64_t flags;
  dlpack::Tensor tensor;
};

// Whether the numbers in memory stand for their negatives: the exchange interface does not tell. torch makes such
// tensors as the imaginary part of a conjugate, a view with stride 2 that is refused for that already, unless it has a
// single element. So one element is the only case to ask for (70 ns). Anything but a plain False counts as yes.
bool may_be_negated(PyObject* object) {
  PyObject* answer = PyObject_Vectorcall(is_neg, &object, 1, nullptr);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);  // True and False outlive it
  return answer != Py_False;
}

}  // namespace

void connect(nb::handle tensor, nb::handle parameter, nb::handle refusal) {
  nb::object capsule = tensor.attr("__dlpack_c_exchange_api__");
  auto* api = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw nb::python_error();
  const dlpack::ExchangeHeader* header = &api->header;
  while (header && header->major != dlpack::kMajor) header = header->previous;
  if (!header) throw std::runtime_error("torch offers no DLPack exchange interface of major version 1");
  exchange = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  is_neg = nb::object(tensor.attr("is_neg")).release().ptr();
  refuse = refusal.inc_ref().ptr();
}

void raise_refusal() {
  PyObject* error = PyObject_CallFunction(refuse, "s", rta_error());
  if (error) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
  Py_XDECREF(error);
  throw nb::python_error();
}

const Dtype& dtype_of(const std::string& name) {
  for (const Dtype& d : kDtypes)
    if (name == d.name) return d;
  throw std::runtime_error("the native core has no dtype " + name);
}

bool view(PyObject* object, const Spec& spec, dlpack::Tensor& t, int64_t& rows) {
  PyTypeObject* type = Py_TYPE(object);
  if (type != tensor_type && type != parameter_type) return false;
  if (exchange->view_from_object(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  const int trailing = static_cast<int>(spec.trailing.size());
  if (t.ndim != spec.lead + trailing || t.device.type != dlpack::kCpu || t.dtype.code != spec.dtype.code ||
      t.dtype.bits != 8 * spec.dtype.bytes || t.dtype.lanes != 1)
    return false;
  int64_t expected = 1;
  bool dense = true;
  rows = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    const int64_t size = t.shape[d];
    if (d >= spec.lead && size != spec.trailing[d - spec.lead]) return false;
    if (d < spec.lead) rows *= size;
    // The stride of a dimension of size 1 is never used and may be anything.
    dense &= !t.strides || size == 1 || t.strides[d] == expected;
    expected *= size;
  }
  if (expected != 0 && !t.data) return false;  // storage that was freed, or a wrapper that holds none
  if (expected == 1 && may_be_negated(object)) return false;
  if (!dense && expected != 0) return false;  // an empty tensor has no element that could lie elsewhere
  t.data = static_cast<char*>(t.data) + t.byte_offset;
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<size_t>(spec.dtype.bytes) == 0;
}

nb::object fresh(const Spec& spec, const int64_t* lead, void*& data) {
  int64_t shape[kMaxDims];
  const int dims = spec.lead + static_cast<int>(spec.trailing.size());
  for (int d = 0; d < dims; ++d) shape[d] = d < spec.lead ? lead[d] : spec.trailing[d - spec.lead];
  dlpack::Tensor prototype{
      nullptr, {dlpack::kCpu, 0}, dims, {spec.dtype.code, static_cast<uint8_t>(8 * spec.dtype.bytes), 1},
      shape,   nullptr,           0};
  void *managed = nullptr, *object = nullptr;
  const auto report = [](void*, const char*, const char* message) { PyErr_SetString(PyExc_MemoryError, message); };
  if (exchange->allocate(&prototype, &managed, nullptr, report) != 0) throw nb::python_error();
  const dlpack::Tensor& tensor = static_cast<Managed*>(managed)->tensor;
  data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (exchange->to_object(managed, &object) != 0) throw nb::python_error();
  return nb::steal(static_cast<PyObject*>(object));
}

}  // namespace rta_torch
