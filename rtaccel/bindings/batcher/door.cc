#include "bindings/batcher/door.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/c_text.h"
#include "rta_door.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::object array(std::unique_ptr<T[]> memory, size_t n, size_t each = 0) {
  T* data = memory.release();
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  const size_t shape[] = {n, each};
  return nb::cast(nb::ndarray<nb::numpy, T>(data, each ? 2 : 1, shape, owner));
}

// Of the process with the batcher, which it keeps alive.
class Door {
 public:
  Door(nb::object batcher, const std::string& name, int64_t lanes, int64_t depth, const std::string& note)
      : kept_(batcher) {
    rta_door_config c = {};
    c.batcher = reinterpret_cast<rta_batcher*>(nb::cast<int64_t>(batcher.attr("address")()));
    c.name = c_text(name);
    c.lanes = lanes;
    c.depth = depth;
    if (note.size() >= sizeof c.note) throw nb::value_error("a note that is too long");
    std::memcpy(c.note, note.c_str(), note.size() + 1);
    core_ = rta_door_open(&c);
    if (!core_) throw nb::value_error(rta_batcher_error_text());
  }
  Door(const Door&) = delete;
  ~Door() { close(); }
  void close() {
    const nb::gil_scoped_release release;
    rta_door_close(core_);
    core_ = nullptr;
  }
  nb::dict stats() const {
    rta_door_stats s = {};
    if (core_) rta_door_statistics(core_, &s);
    nb::dict d;
    const std::pair<const char*, int64_t> counts[] = {{"put", s.put},           {"refused", s.refused},
                                                      {"answered", s.answered}, {"late_at_door", s.late_at_door},
                                                      {"died", s.died},         {"clients", s.clients}};
    for (const auto& [key, value] : counts) d[key] = value;
    return d;
  }

 private:
  nb::object kept_;
  rta_door* core_ = nullptr;
};

class DoorClient {
 public:
  explicit DoorClient(const std::string& name) : core_(rta_door_connect(c_text(name))) {
    if (!core_) throw nb::value_error(rta_batcher_error_text());
    rta_door_sizes(core_, &streams_, &in_, &out_);
  }
  DoorClient(const DoorClient&) = delete;
  ~DoorClient() { close(); }
  void close() {
    rta_door_leave(core_);
    core_ = nullptr;
  }
  std::string note() const { return core_ ? rta_door_described(core_)->note : ""; }
  nb::tuple sizes() const { return nb::make_tuple(streams_, in_, out_, core_ ? rta_door_described(core_)->depth : 0); }

  // Handles, or what became of each put. x: the bytes of all rows.
  nb::object put_many(Longs streams, Bytes x, std::optional<Longs> stamps) {
    const auto n = streams.size();
    if (!core_) throw nb::value_error("a client that was closed");
    if (x.size() != n * in_ || (stamps && stamps->size() != n)) throw nb::value_error("a row for each stream");
    std::unique_ptr<int64_t[]> handles(new int64_t[n]);
    {
      const nb::gil_scoped_release release;
      rta_door_put(core_, static_cast<int64_t>(n), streams.data(), x.data(), stamps ? stamps->data() : nullptr,
                   handles.get());
    }
    return array(std::move(handles), n);
  }

  int wait(int64_t handle, int64_t timeout_ns) {
    if (!core_) return RTA_DOOR_GONE;
    const nb::gil_scoped_release release;
    return rta_door_wait(core_, handle, timeout_ns);
  }

  // (status, lateness in ns, y as bytes or None); None where it was taken or is not answered.
  nb::object take(int64_t handle) {
    std::vector<char> y(out_);
    int64_t late = 0;
    const int status = core_ ? rta_door_take(core_, handle, y.data(), &late) : RTA_DOOR_BAD;
    if (status == RTA_DOOR_BAD) return nb::none();
    const bool stepped = status == RTA_ANSWER_OK || status == RTA_ANSWER_LATE;
    return nb::make_tuple(status, late, stepped ? nb::object(nb::bytes(y.data(), y.size())) : nb::none());
  }

  // (status [n], lateness in ns [n], y as bytes [n, out]) of handles, each waited for so long at most. A status where
  // there is no answer is what rta_door_wait or _take gave instead; 100 where it is not answered yet.
  nb::tuple take_many(Longs handles, int64_t timeout_ns) {
    const size_t n = handles.size();
    if (!core_) throw nb::value_error("a client that was closed");
    std::unique_ptr<int64_t[]> status(new int64_t[n]), late(new int64_t[n]());
    std::unique_ptr<uint8_t[]> y(new uint8_t[n * out_]());
    {
      const nb::gil_scoped_release release;
      const int64_t until = rta_latest_now_ns() + timeout_ns;
      for (size_t i = 0; i < n; ++i) {
        const int64_t handle = handles.data()[i];
        if (handle < 0) {
          status[i] = handle;
          continue;
        }
        const int code = rta_door_wait(core_, handle, std::max<int64_t>(until - rta_latest_now_ns(), 0));
        status[i] = code > 0 ? rta_door_take(core_, handle, y.get() + i * out_, &late[i]) : code == 0 ? 100 : code;
      }
    }
    return nb::make_tuple(array(std::move(status), n), array(std::move(late), n), array(std::move(y), n, out_));
  }

  void leave(int64_t handle) {
    if (core_) rta_door_forget(core_, handle);
  }

 private:
  rta_door_client* core_;
  int64_t streams_ = 0;
  size_t in_ = 0, out_ = 0;
};

}  // namespace

void add_door(nb::module_& m) {
  m.attr("BATCHER_FULL") = static_cast<int>(RTA_PUT_FULL);
  nb::class_<Door>(m, "BatcherDoor", "The native side of the door of a rtaccel.StreamBatcher.")
      .def(nb::init<nb::object, const std::string&, int64_t, int64_t, const std::string&>(), nb::arg("batcher"),
           nb::arg("name"), nb::arg("lanes"), nb::arg("depth"), nb::arg("note"))
      .def("close", &Door::close)
      .def("stats", &Door::stats);
  nb::class_<DoorClient>(m, "BatcherDoorClient", "The native side of rtaccel.serve.door.BatcherClient.")
      .def(nb::init<const std::string&>(), nb::arg("name"))
      .def("close", &DoorClient::close)
      .def("note", &DoorClient::note)
      .def("sizes", &DoorClient::sizes)
      .def("put_many", &DoorClient::put_many, nb::arg("streams"), nb::arg("x"), nb::arg("stamps").none())
      .def("wait", &DoorClient::wait)
      .def("take", &DoorClient::take)
      .def("take_many", &DoorClient::take_many)
      .def("leave", &DoorClient::leave);
}

}  // namespace rta_torch
