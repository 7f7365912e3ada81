#include "bindings/frames/frames.h"

#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

namespace nb = nanobind;

namespace rta_frames {
namespace {

using Buffer = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<uint8_t> sixteen(nb::bytes given) {
  if (given.size() != 16) throw nb::value_error("16 bytes are expected");
  const uint8_t* at = static_cast<const uint8_t*>(given.data());
  return {at, at + 16};
}

nb::dlpack::dtype dtype_of(int wire) {
  if (wire == RTA_WIRE_INT8) return nb::dtype<int8_t>();
  if (wire == RTA_WIRE_INT64) return nb::dtype<int64_t>();
  return nb::dtype<float>();
}

}  // namespace

End::End(std::vector<Array> arrays, const std::vector<int>& wires, nb::bytes model, nb::bytes key)
    : arrays_(std::move(arrays)) {
  const std::vector<uint8_t> model_bytes = sixteen(model), key_bytes = sixteen(key);
  std::memcpy(end_.model, model_bytes.data(), sizeof end_.model);
  std::memcpy(end_.key, key_bytes.data(), sizeof end_.key);
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
  end_.tensors = tensors_.data();
  end_.count = static_cast<int>(tensors_.size());
  bytes_ = rta_frame_bytes(end_.tensors, end_.count);
  if (!bytes_) throw nb::value_error("a frame has 1 to 8 arrays that are not empty, of less than 2 GiB");
}

std::vector<size_t> End::array_bytes() const {
  std::vector<size_t> found;
  for (const Array& a : arrays_) found.push_back(a.nbytes());
  return found;
}

int64_t Writer::write(void* out, size_t capacity, int kind, int status, uint64_t session, uint64_t sequence,
                      int64_t stamp_ns) const {
  rta_frame_head head{session, sequence, stamp_ns, {}, static_cast<uint16_t>(status), static_cast<uint8_t>(kind)};
  std::memcpy(head.model, end_.model, sizeof head.model);
  return rta_frame_write(out, capacity, &head, end_.tensors, end_.count, end_.key);
}

nb::tuple Reader::read(const void* frame, size_t size, int kind, uint64_t session, rta_frame_guard& guard) const {
  rta_frame_head head{};
  const int code = rta_frame_read(frame, size, &end_, kind, session, &guard, &head);
  return nb::make_tuple(code, head.kind, head.status, head.session, head.sequence, head.stamp_ns);
}

namespace {

nb::tuple read_view(const Reader& reader, nb::handle frame, size_t size, int kind, uint64_t session,
                    rta_frame_guard& guard) {
  const View view(frame);
  if (size > view.size()) return nb::make_tuple(static_cast<int>(RTA_FRAME_TRUNCATED), 0, 0, 0, 0, 0);
  return reader.read(view.data(), size, kind, session, guard);
}

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
      .def("write",
           [](const Writer& w, const Buffer& out, int kind, int status, uint64_t session, uint64_t sequence,
              int64_t stamp_ns) { return w.write(out.data(), out.size(), kind, status, session, sequence, stamp_ns); });
  nb::class_<Reader, End>(m, "FrameReader", "Reads frames into its arrays.")
      .def(nb::init<std::vector<Array>, std::vector<int>, nb::bytes, nb::bytes>())
      .def("read", &read_view);
  m.def("frame_parse", &parsed);
  m.def("siphash",
        [](nb::bytes data, nb::bytes key) { return rta_siphash(data.data(), data.size(), sixteen(key).data()); });
}

}  // namespace rta_frames
