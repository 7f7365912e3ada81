// Frames as Python sees them: a writer and a reader bound to arrays, so that a frame costs one call and no allocation.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "rta_frame.h"

namespace rta_frames {

namespace nb = nanobind;
using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;

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

// What an end of a link knows: where its tensors are, how they travel, the model and the key.
class End {
 public:
  End(std::vector<Array> arrays, const std::vector<int>& wires, nb::bytes model, nb::bytes key);
  End(const End&) = delete;
  size_t bytes() const { return bytes_; }
  const rta_frame_end& end() const { return end_; }
  std::vector<size_t> array_bytes() const;

 protected:
  std::vector<Array> arrays_;
  std::vector<rta_frame_tensor> tensors_;
  rta_frame_end end_{};
  size_t bytes_ = 0;
};

class Writer : public End {
 public:
  using End::End;
  int64_t write(void* out, size_t capacity, int kind, int status, uint64_t session, uint64_t sequence,
                int64_t stamp_ns) const;
};

class Reader : public End {
 public:
  using End::End;
  // (code, kind, status, session, sequence, stamp). The arrays are written where the code is 0, and only there.
  // session: of an answer's request; 0 for a receiver of requests, whose guard then moves on.
  nb::tuple read(const void* frame, size_t size, int kind, uint64_t session, rta_frame_guard& guard) const;
};

void add_frames(nb::module_& m);

}  // namespace rta_frames
