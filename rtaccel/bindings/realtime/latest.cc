#include "bindings/realtime/latest.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c_text.h"
#include "bindings/tensor.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

using Memory = std::shared_ptr<rta_latest>;

struct MemoryHolder {
  Memory slot;
};

struct DtypeRow {
  const char* name;
  const char* formats;  // of the buffer protocol
  int bytes;
  uint32_t code;
};
constexpr DtypeRow kDtypes[] = {
    {"float32", "f", 4, RTA_LATEST_FLOAT32}, {"int8", "b", 1, RTA_LATEST_INT8},
    {"int64", "lq", 8, RTA_LATEST_INT64},    {"int32", "i", 4, RTA_LATEST_INT32},
    {"uint8", "B", 1, RTA_LATEST_UINT8},     {"bfloat16", "", 2, RTA_LATEST_BFLOAT16},
    {"float64", "d", 8, RTA_LATEST_FLOAT64}, {"float16", "e", 2, RTA_LATEST_FLOAT16},
    {"int16", "h", 2, RTA_LATEST_INT16},     {"bool", "?", 1, RTA_LATEST_BOOL},
};

const DtypeRow* row_of(uint32_t code) {
  for (const DtypeRow& row : kDtypes)
    if (row.code == code) return &row;
  return nullptr;
}

// What `get` gives. The value is one array per buffer, made once.
struct Sample {
  nb::object value;
  int64_t seq, stamp_ns, put_ns, origin;
  int status;
};

const char* const kStatus[] = {"none", "new", "old"};
const char* const kOrigins[] = {"put", "fresh", "held", "fallback", "forecast", "missed"};
PyObject *status_texts[3], *origin_texts[6];

class ArraySlot : public LatestSlot {
 public:
  ArraySlot(std::optional<std::string> name, const std::string& dtype, std::vector<int64_t> shape, int readers,
            int nan) {
    const DtypeRow* row = nullptr;
    for (const DtypeRow& one : kDtypes)
      if (dtype == one.name) row = &one;
    if (!row) throw nb::value_error(("dtype " + dtype).c_str());
    open(rta_latest_create(name ? c_text(*name) : nullptr, row->code, static_cast<int>(shape.size()), shape.data(),
                           static_cast<rta_latest_readers>(readers), static_cast<rta_latest_nan>(nan)));
  }
  explicit ArraySlot(const std::string& name) { open(rta_latest_open(c_text(name))); }

  // Arrays of the buffers, and what is called with the slot where a put or a get is out of the ordinary.
  void prepare(nb::object views, nb::object slow, nb::object refused) {
    for (nb::handle view : views) views_.push_back(nb::borrow(view));
    slow_ = slow;
    refused_ = refused;
  }

  nb::object put(nb::handle value, nb::handle stamp) {
    int64_t seq = RTA_LATEST_BAD, stamp_ns = 0;
    bool plain = slot_ != nullptr;
    if (plain && !stamp.is_none()) {
      plain = PyLong_CheckExact(stamp.ptr());
      if (plain) stamp_ns = PyLong_AsLongLong(stamp.ptr());
      if (PyErr_Occurred()) PyErr_Clear();
      plain = plain && stamp_ns > 0;
    }
    if (plain && from(value, stamp_ns, seq) && seq > 0) return nb::int_(seq);
    return slow_(nb::find(*this), value, stamp, seq);
  }

  // The number, or an rta_latest_error; RTA_LATEST_BAD too where the value cannot be read directly.
  int64_t put_directly(nb::handle value, int64_t stamp_ns) {
    int64_t seq = RTA_LATEST_BAD;
    if (slot_) from(value, stamp_ns, seq);
    return seq;
  }

  nb::object get() {
    rta_latest_sample got;
    const int code = slot_ ? rta_latest_get(slot_.get(), &got) : static_cast<int>(RTA_LATEST_BAD);
    if (code != 0) return refused_(nb::find(*this), code);
    nb::object value;
    if (got.status == RTA_LATEST_NONE) {
      value = nb::none();
    } else {
      for (size_t i = 0; i < views_.size() && !value.is_valid(); ++i)
        if (got.data == data_[i]) value = views_[i];
      if (header_->readers == RTA_LATEST_MANY) value = value.attr("copy")();
    }
    return nb::cast(Sample{std::move(value), got.seq, got.stamp_ns, got.put_ns, got.origin, got.status});
  }

  std::vector<uint64_t> buffers() const {
    std::vector<uint64_t> all;
    for (const void* p : data_) all.push_back(reinterpret_cast<uint64_t>(p));
    return all;
  }
  MemoryHolder memory() const { return {slot_}; }
  bool closed() const { return !slot_; }
  void close() {
    if (slot_) rta_latest_leave(slot_.get());
    views_.clear();
    slot_.reset();
  }
  std::vector<int64_t> shape() const { return shape_; }
  std::string dtype() const { return row_->name; }
  int readers() const { return static_cast<int>(readers_); }
  int nan() const { return static_cast<int>(nan_); }
  std::pair<int64_t, int64_t> refused() const {
    return slot_ ? std::pair{header_->dropped, header_->clock_back} : std::pair<int64_t, int64_t>{0, 0};
  }
  std::pair<uint64_t, uint64_t> owners() const {
    return slot_ ? std::pair{header_->writer, header_->reader} : std::pair<uint64_t, uint64_t>{0, 0};
  }
  uint64_t address() const { return reinterpret_cast<uint64_t>(slot_.get()); }

 private:
  void open(rta_latest* made) {
    if (!made) throw nb::value_error(rta_latest_error_text());
    slot_ = Memory(made, rta_latest_close);
    header_ = rta_latest_describe(made);
    row_ = row_of(header_->dtype);
    readers_ = header_->readers;
    nan_ = header_->nan;
    shape_.assign(header_->shape, header_->shape + header_->ndim);
    for (int i = 0; i < 3 && rta_latest_buffer(made, i); ++i) data_.push_back(rta_latest_buffer(made, i));
    bytes_ = header_->payload_bytes;
    if (row_->code != RTA_LATEST_FLOAT64 && row_->code != RTA_LATEST_BOOL)
      spec_ = Spec{dtype_of(row_->name), 0, {}, shape_};
  }

  // Puts what can be read where it lies: torch's tensors, or a buffer. False: it needs a closer look.
  bool from(nb::handle value, int64_t stamp_ns, int64_t& seq) {
    dlpack::Tensor t;
    int64_t rows;
    if (spec_ && view(value.ptr(), *spec_, t, rows)) {
      seq = rta_latest_put(slot_.get(), t.data, stamp_ns);
      return true;
    }
    if (!PyObject_CheckBuffer(value.ptr())) return false;
    Py_buffer b;
    if (PyObject_GetBuffer(value.ptr(), &b, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      return false;
    }
    bool fits = static_cast<size_t>(b.len) == bytes_ && b.itemsize == row_->bytes &&
                b.ndim == static_cast<int>(shape_.size()) && fits_format(b.format);
    for (int d = 0; fits && d < b.ndim; ++d) fits = b.shape[d] == shape_[d];
    if (fits) seq = rta_latest_put(slot_.get(), b.buf, stamp_ns);
    PyBuffer_Release(&b);
    return fits;
  }

  bool fits_format(const char* format) const {
    if (format && (*format == '@' || *format == '=' || *format == '<')) ++format;
    return format && format[0] && !format[1] && std::strchr(row_->formats, format[0]);
  }

  const rta_latest_header* header_ = nullptr;
  const DtypeRow* row_ = nullptr;
  std::vector<int64_t> shape_;
  std::vector<const void*> data_;
  std::vector<nb::object> views_;
  nb::object slow_, refused_;
  std::optional<Spec> spec_;
  size_t bytes_ = 0;
  uint32_t readers_ = 0, nan_ = 0;
};

}  // namespace

rta_latest* latest_of(nb::handle slot) {
  rta_latest* core = nb::cast<ArraySlot*>(slot)->core();
  if (!core) throw nb::value_error("the slot is closed");
  return core;
}

void add_latest(nb::module_& m) {
  for (int i = 0; i < 3; ++i) status_texts[i] = PyUnicode_InternFromString(kStatus[i]);
  for (int i = 0; i < 6; ++i) origin_texts[i] = PyUnicode_InternFromString(kOrigins[i]);
  nb::class_<MemoryHolder>(m, "LatestMemory", "Keeps the memory of a slot.");
  nb::class_<Sample>(
      m, "Sample",
      "What `Latest.get` gives. value: a read-only NumPy array of the slot's memory, valid until the next get "
      "(readers=\"many\": an array of its own), or None; stamp_ns, seq, status, origin; age_us: how old the "
      "value is now.")
      .def_ro("value", &Sample::value)
      .def_ro("seq", &Sample::seq)
      .def_ro("stamp_ns", &Sample::stamp_ns)
      .def_ro("put_ns", &Sample::put_ns)
      .def_prop_ro("status", [](const Sample& s) { return nb::borrow(status_texts[s.status]); })
      .def_prop_ro(
          "origin",
          [](const Sample& s) { return nb::borrow(origin_texts[s.origin >= 0 && s.origin < 6 ? s.origin : 0]); })
      .def_prop_ro("age_us",
                   [](const Sample& s) -> std::optional<double> {
                     if (s.seq == 0) return std::nullopt;
                     const int64_t age = rta_latest_now_ns() - s.stamp_ns;
                     return static_cast<double>(age > 0 ? age : 0) * 1e-3;
                   })
      .def("__repr__", [](const Sample& s) {
        return std::string("Sample(status='") + kStatus[s.status] + "', seq=" + std::to_string(s.seq) + ", origin='" +
               kOrigins[s.origin >= 0 && s.origin < 6 ? s.origin : 0] + "')";
      });
  nb::class_<ArraySlot>(m, "LatestSlot", "The native side of rtaccel.Latest.")
      .def(nb::init<std::optional<std::string>, const std::string&, std::vector<int64_t>, int, int>(),
           nb::arg("name").none(), nb::arg("dtype"), nb::arg("shape"), nb::arg("readers"), nb::arg("nan"))
      .def(nb::init<const std::string&>(), nb::arg("name"))
      .def("prepare", &ArraySlot::prepare)
      .def("put", &ArraySlot::put, nb::arg("x").none(), nb::arg("stamp_ns").none() = nb::none())
      .def("get", &ArraySlot::get)
      .def("put_directly", &ArraySlot::put_directly)
      .def("buffers", &ArraySlot::buffers)
      .def("memory", &ArraySlot::memory)
      .def("close", &ArraySlot::close)
      .def_prop_ro("closed", &ArraySlot::closed)
      .def_prop_ro("slot_shape", &ArraySlot::shape)
      .def_prop_ro("slot_dtype", &ArraySlot::dtype)
      .def_prop_ro("slot_readers", &ArraySlot::readers)
      .def_prop_ro("slot_nan", &ArraySlot::nan)
      .def_prop_ro("refused", &ArraySlot::refused)
      .def_prop_ro("owners", &ArraySlot::owners)
      .def_prop_ro("address", &ArraySlot::address);
  m.def("latest_unlink", [](const std::string& name) { return rta_latest_unlink(c_text(name)); });
  m.def("latest_error", [] { return std::string(rta_latest_error_text()); });
  m.def("now_ns", &rta_latest_now_ns);
  add_latest_soak(m);
}

}  // namespace rta_torch
