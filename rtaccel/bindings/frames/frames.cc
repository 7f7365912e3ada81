#include "bindings/frames/frames.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "rta_frame.h"

namespace nb = nanobind;

namespace rta_frames {
namespace {

using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Buffer = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The bytes of anything with a buffer that can be read: bytes, memoryview, an array.
class View {
 public:
  explicit View(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~View() { PyBuffer_Release(&view_); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  const void* data() const { return view_.buf; }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_;
};

std::vector<uint8_t> sixteen(nb::bytes given) {
  if (given.size() != 16) throw nb::value_error("16 bytes are expected");
  const uint8_t* at = static_cast<const uint8_t*>(given.data());
  return {at, at + 16};
}

// What both ends of a frame know: where its tensors are, how they travel, the model and the key.
class End {
 public:
  End(std::vector<Array> arrays, const std::vector<int>& wires, nb::bytes model, nb::bytes key)
      : arrays_(std::move(arrays)), model_(sixteen(model)), key_(sixteen(key)) {
    if (arrays_.size() != wires.size()) throw nb::value_error("a wire for each array is expected");
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const Array& a = arrays_[i];
      if (a.ndim() < 1 || a.ndim() > RTA_FRAME_DIMS) throw nb::value_error("arrays have 1 to 7 dimensions");
      rta_frame_tensor t{a.data(), 0, {}, static_cast<uint8_t>(wires[i]), static_cast<uint8_t>(a.ndim())};
      for (size_t k = 0; k < a.ndim(); ++k) {
        if (a.shape(k) > 0x7fffffff) throw nb::value_error("an array is too large for a frame");
        t.dims[k] = static_cast<uint32_t>(a.shape(k));
      }
      if (a.dtype() != dtype_of(wires[i])) throw nb::value_error("the dtype of an array does not fit its wire");
      tensors_.push_back(t);
    }
    bytes_ = rta_frame_bytes(tensors_.data(), static_cast<int>(tensors_.size()));
    if (!bytes_) throw nb::value_error("a frame has 1 to 8 arrays that are not empty, of less than 2 GiB");
  }
  size_t bytes() const { return bytes_; }

 protected:
  static nb::dlpack::dtype dtype_of(int wire) {
    if (wire == RTA_WIRE_INT8) return nb::dtype<int8_t>();
    if (wire == RTA_WIRE_INT64) return nb::dtype<int64_t>();
    return nb::dtype<float>();
  }
  std::vector<Array> arrays_;
  std::vector<uint8_t> model_, key_;
  std::vector<rta_frame_tensor> tensors_;
  size_t bytes_ = 0;
};

class Writer : public End {
 public:
  using End::End;
  int64_t write(const Buffer& out, int kind, int status, uint64_t session, uint64_t sequence, int64_t stamp_ns) const {
    rta_frame_head head{session, sequence, stamp_ns, {}, static_cast<uint16_t>(status), static_cast<uint8_t>(kind)};
    std::memcpy(head.model, model_.data(), sizeof head.model);
    return rta_frame_write(out.data(), out.size(), &head, tensors_.data(), static_cast<int>(tensors_.size()),
                           key_.data());
  }
};

class Reader : public End {
 public:
  using End::End;
  // (code, kind, status, session, sequence, stamp). The arrays are written where the code is 0, and only there.
  // session: of an answer's request; 0 for a receiver of requests, whose guard then moves on.
  nb::tuple read(nb::handle frame, size_t size, int kind, uint64_t session, rta_frame_guard& guard) const {
    const View view(frame);
    rta_frame_head head{};
    const int code = size > view.size() ? RTA_FRAME_TRUNCATED : checked(view.data(), size, kind, session, guard, head);
    return nb::make_tuple(code, head.kind, head.status, head.session, head.sequence, head.stamp_ns);
  }

 private:
  int checked(const void* frame, size_t size, int kind, uint64_t session, rta_frame_guard& guard,
              rta_frame_head& head) const {
    if (size > bytes_) return RTA_FRAME_OVERSIZE;  // before a digest of what may be long
    rta_frame_tensor found[RTA_FRAME_TENSORS];
    int count = 0;
    if (const int code = rta_frame_parse(frame, size, key_.data(), &head, found, &count)) return code;
    if (head.kind != kind) return RTA_FRAME_KIND;
    if (std::memcmp(head.model, model_.data(), sizeof head.model) != 0) return RTA_FRAME_MODEL;
    if (session && head.session != session) return RTA_FRAME_SESSION;
    const bool whole = head.status == 0;  // an answer that says what went wrong has tensors that mean nothing
    if (whole && static_cast<size_t>(count) != tensors_.size()) return RTA_FRAME_LAYOUT;
    for (int i = 0; whole && i < count; ++i) {
      const rta_frame_tensor &a = found[i], &b = tensors_[static_cast<size_t>(i)];
      if (a.wire != b.wire || a.rank != b.rank || std::memcmp(a.dims, b.dims, sizeof a.dims) != 0)
        return RTA_FRAME_LAYOUT;
    }
    if (const int code = rta_frame_admit(&guard, &head)) return code;
    for (int i = 0; whole && i < count; ++i) rta_frame_unpack(found + i, tensors_[static_cast<size_t>(i)].data);
    return RTA_FRAME_OK;
  }
};

// What a frame says of itself: (code, kind, status, session, sequence, stamp, model, [(wire, shape, bytes)]).
nb::tuple parsed(nb::handle frame, nb::bytes key) {
  const View view(frame);
  rta_frame_head head{};
  rta_frame_tensor found[RTA_FRAME_TENSORS];
  int count = 0;
  const int code = rta_frame_parse(view.data(), view.size(), sixteen(key).data(), &head, found, &count);
  nb::list tensors;
  for (int i = 0; i < count; ++i) {
    nb::list dims;
    for (int k = 0; k < found[i].rank; ++k) dims.append(found[i].dims[k]);
    tensors.append(nb::make_tuple(found[i].wire, nb::tuple(dims), found[i].bytes));
  }
  return nb::make_tuple(code, head.kind, head.status, head.session, head.sequence, head.stamp_ns,
                        nb::bytes(reinterpret_cast<const char*>(head.model), sizeof head.model), tensors);
}

}  // namespace

void add_frames(nb::module_& m) {
  nb::class_<rta_frame_guard>(m, "FrameGuard", "What a receiver remembers of a sender.")
      .def("__init__", [](rta_frame_guard* self) { new (self) rta_frame_guard{}; })
      .def_rw("session", &rta_frame_guard::session)
      .def_rw("newest", &rta_frame_guard::newest);
  nb::class_<End>(m, "FrameEnd", "Arrays of a frame. Internal: use rtaccel.serve.frames.").def("bytes", &End::bytes);
  nb::class_<Writer, End>(m, "FrameWriter", "Writes its arrays into frames.")
      .def(nb::init<std::vector<Array>, std::vector<int>, nb::bytes, nb::bytes>())
      .def("write", &Writer::write);
  nb::class_<Reader, End>(m, "FrameReader", "Reads frames into its arrays.")
      .def(nb::init<std::vector<Array>, std::vector<int>, nb::bytes, nb::bytes>())
      .def("read", &Reader::read);
  m.def("frame_parse", &parsed);
  m.def("siphash",
        [](nb::bytes data, nb::bytes key) { return rta_siphash(data.data(), data.size(), sixteen(key).data()); });
}

}  // namespace rta_frames
