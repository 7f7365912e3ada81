#include "bindings/artifact/array.h"

#include <cstring>

#include "_system/dtypes.h"

namespace nb = nanobind;

namespace rta_model_py {
namespace {

struct Format {
  const char* dtype;
  char kind;  // f, i, u, b
  int bytes;
};
constexpr Format kFormats[] = {{"float32", 'f', 4},  {"float64", 'f', 8}, {"float16", 'f', 2}, {"int8", 'i', 1},
                               {"int16", 'i', 2},    {"int32", 'i', 4},   {"int64", 'i', 8},   {"uint8", 'u', 1},
                               {"bfloat16", 'r', 2}, {"uint16", 'u', 2},  {"uint32", 'u', 4},  {"uint64", 'u', 8},
                               {"bool", 'b', 1}};

const char* named(char kind, int64_t bytes) {
  for (const Format& f : kFormats)
    if (f.kind == kind && f.bytes == bytes) return f.dtype;
  return "another dtype";
}

// A format of the struct module: one letter, in this machine's byte order.
char kind_of(const char* format) {
  if (!format) return 'u';  // plain bytes
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (!*format || format[1]) return 0;
  return std::strchr("fde", *format)     ? 'f'
         : std::strchr("bhilq", *format) ? 'i'
         : std::strchr("BHILQ", *format) ? 'u'
         : *format == '?'                ? 'b'
                                         : 0;
}

std::string described(const char* dtype, int rank, const int64_t* shape) {
  std::string text = std::string(dtype) + "[";
  for (int d = 0; d < rank; ++d) text += (d ? ", " : "") + (shape[d] < 0 ? "*" : std::to_string(shape[d]));
  return text + "]";
}

}  // namespace

const char* dtype_name(rta_dtype dtype) { return rta::kDtypes[dtype].name; }

void Array::take(Array& other) {
  data = other.data;
  samples = other.samples;
  bytes = other.bytes;
  batch = other.batch;
  buffer_ = other.buffer_;
  has_buffer_ = other.has_buffer_;
  dlpack_ = std::move(other.dlpack_);
  other.has_buffer_ = false;
}

void Array::release() {
  if (has_buffer_) PyBuffer_Release(&buffer_);
  has_buffer_ = false;
}

std::string Array::check(const rta_tensor& wanted, const char* dtype, int rank, const int64_t* shape,
                         int64_t item_bytes) {
  const char* expected = dtype_name(wanted.dtype);
  const bool again = (wanted.dtype == RTA_UINT8 && std::strcmp(dtype, "bool") == 0) ||
                     (wanted.dtype == RTA_BFLOAT16 && std::strcmp(dtype, "uint16") == 0);  // NumPy has no bfloat16
  bool fits = rank == wanted.rank && (std::strcmp(dtype, expected) == 0 || again);
  samples = 1;
  bytes = item_bytes;
  for (int d = 0; fits && d < rank; ++d) {
    fits = wanted.shape[d] < 0 || wanted.shape[d] == shape[d];
    if (d < wanted.lead) samples *= shape[d];
    if (d == 0 && wanted.lead) batch = shape[d];
    bytes *= shape[d];
  }
  if (fits) return "";
  return described(dtype, rank, shape) + "; expected " + described(expected, wanted.rank, wanted.shape);
}

std::string Array::open(PyObject* object, const rta_tensor& wanted, bool written) {
  release();
  if (PyObject_CheckBuffer(object)) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &buffer_, flags) != 0) {
      PyErr_Clear();
      return written ? "an array that is strided or cannot be written" : "an array that is strided";
    }
    has_buffer_ = true;
    if (buffer_.ndim > 8) return "an array of more than 8 dimensions";
    int64_t shape[8];
    for (int d = 0; d < buffer_.ndim; ++d) shape[d] = buffer_.shape[d];
    data = buffer_.buf;
    const char kind = kind_of(buffer_.format);
    return check(wanted, kind ? named(kind, buffer_.itemsize) : "another dtype", buffer_.ndim, shape, buffer_.itemsize);
  }
  if (!nb::try_cast<nb::ndarray<>>(nb::handle(object), dlpack_, false)) {
    PyErr_Clear();
    const nb::object type = nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(object))).attr("__name__");
    return std::string("a ") + nb::str(type).c_str() + "; expected an array (buffer protocol or DLPack)";
  }
  if (dlpack_.device_type() != nb::device::cpu::value) return "an array on another device than the CPU";
  const int rank = static_cast<int>(dlpack_.ndim());
  if (rank > 8) return "an array of more than 8 dimensions";
  int64_t shape[8], dense = 1;
  bool contiguous = true;
  for (int d = rank - 1; d >= 0; --d) {
    shape[d] = static_cast<int64_t>(dlpack_.shape(static_cast<size_t>(d)));
    contiguous &= shape[d] == 1 || dlpack_.stride(static_cast<size_t>(d)) == dense;
    dense *= shape[d];
  }
  if (!contiguous && dense) return "an array that is strided";
  const auto type = dlpack_.dtype();
  using Code = nb::dlpack::dtype_code;
  const auto code = static_cast<Code>(type.code);
  const char kind = code == Code::Float    ? 'f'
                    : code == Code::Int    ? 'i'
                    : code == Code::UInt   ? 'u'
                    : code == Code::Bool   ? 'b'
                    : code == Code::Bfloat ? 'r'
                                           : 0;
  data = dlpack_.data();
  return check(wanted, type.lanes == 1 && kind ? named(kind, type.bits / 8) : "another dtype", rank, shape,
               type.bits / 8);
}

}  // namespace rta_model_py
