#include "bindings/tensor.h"

#include <cstring>
#include <stdexcept>

#include "_system/dtypes.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

// torch, as far as this module knows it. Set once by `connect`.
const dlpack::ExchangeApi* exchange = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject *is_neg = nullptr, *refuse = nullptr, *hold = nullptr;

constexpr Dtype of(rta_dtype dtype, uint8_t code) {
  return {rta::kDtypes[dtype].name, dtype, code, rta::element_bytes(dtype)};
}
constexpr Dtype kDtypes[] = {
    of(RTA_FLOAT32, dlpack::kFloat),       of(RTA_INT8, dlpack::kInt),       of(RTA_INT64, dlpack::kInt),
    of(RTA_INT32, dlpack::kInt),           of(RTA_UINT8, dlpack::kUnsigned), of(RTA_BFLOAT16, dlpack::kBfloat),
    {"bool", RTA_UINT8, dlpack::kBool, 1}, of(RTA_FLOAT16, dlpack::kFloat),  of(RTA_INT16, dlpack::kInt),
};

// What `allocate` gives, as the DLPack specification lays it out.
struct Managed {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Managed*);
  uint64_t flags;
  dlpack::Tensor tensor;
};

// Where a Python tensor keeps the address of its torch tensor, where that keeps its dispatch keys, and the one that
// says that the numbers in memory stand for their negatives (a view that torch makes of the imaginary part of a
// conjugate, or _neg_view). The exchange interface does not tell, and asking torch costs 70 ns a tensor. So the place
// is found by comparing tensors of both kinds; where that is not clear, torch is asked.
struct {
  size_t object_offset = 0, keys_offset = 0;
  uint64_t bit = 0;
} negative;

constexpr size_t kSearchedBytes = 192;  // the front of torch's tensor, which is not smaller

uint64_t word(const void* base, size_t offset) {
  uint64_t value;
  std::memcpy(&value, static_cast<const char*>(base) + offset, sizeof value);
  return value;
}

uint64_t address_of(nb::handle tensor) { return nb::cast<uint64_t>(tensor.attr("_cdata")); }

// The bit that all negated tensors have and no plain one, in a word that is the same in all tensors of a kind. 0: none.
uint64_t bit_at(const std::vector<const void*>& plain, const std::vector<const void*>& negated, size_t offset) {
  const uint64_t without = word(plain[0], offset), with = word(negated[0], offset);
  for (const void* p : plain)
    if (word(p, offset) != without) return 0;
  for (const void* p : negated)
    if (word(p, offset) != with) return 0;
  const uint64_t bit = with & ~without;
  return bit != 0 && (bit & (bit - 1)) == 0 && (with & ~bit) == without ? bit : 0;
}

void find_negative_bit(nb::list plain, nb::list negated) {
  if (plain.size() < 2 || plain.size() != negated.size()) return;
  std::vector<const void*> kinds[2];
  size_t object_offset = 0;
  for (size_t offset = 2 * sizeof(void*); offset <= 5 * sizeof(void*) && !object_offset; offset += sizeof(void*)) {
    bool all = true;
    for (nb::list tensors : {plain, negated})
      for (nb::handle t : tensors) all = all && word(t.ptr(), offset) == address_of(t);
    if (all) object_offset = offset;
  }
  if (!object_offset) return;
  for (int kind = 0; kind < 2; ++kind)
    for (nb::handle t : kind ? negated : plain) kinds[kind].push_back(reinterpret_cast<const void*>(address_of(t)));
  for (size_t offset = 0; offset < kSearchedBytes; offset += sizeof(uint64_t)) {
    const uint64_t bit = bit_at(kinds[0], kinds[1], offset);
    if (!bit) continue;
    if (negative.bit) {  // two places: not clear
      negative.bit = 0;
      return;
    }
    negative = {object_offset, offset, bit};
  }
}

bool may_be_negated(PyObject* object) {
  if (negative.bit) {
    const void* tensor = reinterpret_cast<const void*>(word(object, negative.object_offset));
    return (word(tensor, negative.keys_offset) & negative.bit) != 0;
  }
  PyObject* answer = PyObject_Vectorcall(is_neg, &object, 1, nullptr);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);         // True and False outlive it
  return answer != Py_False;  // anything but a plain False counts as yes
}

}  // namespace

void connect(nb::handle tensor, nb::handle parameter, nb::handle refusal, nb::handle holder, nb::list plain,
             nb::list negated) {
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
  hold = holder.inc_ref().ptr();
  find_negative_bit(plain, negated);
}

nb::object held(nb::handle tensor) { return nb::handle(hold)(tensor); }

bool knows_negative_bit() { return negative.bit != 0; }

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
    if (d > 0 && d < spec.lead && !spec.middle.empty() && size != spec.middle[d - 1]) return false;
    // The stride of a dimension of size 1 is never used and may be anything.
    dense &= !t.strides || size == 1 || t.strides[d] == expected;
    expected *= size;
  }
  if (expected != 0 && !t.data) return false;  // storage that was freed, or a wrapper that holds none
  if (may_be_negated(object)) return false;
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
