#include "bindings/remote/remote.h"

#include <nanobind/stl/vector.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <vector>

#include "bindings/frames/frames.h"
#include "bindings/realtime/loop_steps.h"
#include "rta_udp.h"

namespace nb = nanobind;

namespace rta_remote_py {
namespace {

using rta_frames::Reader;
using rta_frames::View;
using rta_frames::Writer;

// An endpoint over arrays and a step. The plan of a model has one scratch: without a server a request is computed with
// the GIL held, as every other call of the model is; while a server runs it is computed without, and other calls are
// refused.
class Endpoint {
 public:
  Endpoint(nb::object reader, nb::object writer, nb::object step, int64_t most_peers)
      : kept_(nb::make_tuple(reader, writer, step)), step_(nb::cast<rta_torch::LoopStep&>(step)) {
    const auto& in = nb::cast<const Reader&>(reader);
    const auto& out = nb::cast<const Writer&>(writer);
    check(in.array_bytes(), step_.ports.in_bytes, step_.ports.inputs);
    check(out.array_bytes(), step_.ports.out_bytes, step_.ports.outputs);
    const rta_endpoint_config config{in.end(), out.end(), &Endpoint::run, this, most_peers};
    core_ = rta_endpoint_create(&config);
    if (!core_) throw nb::value_error("tensors that no frame holds");
  }
  Endpoint(const Endpoint&) = delete;
  ~Endpoint() { rta_endpoint_destroy(core_); }

  // The answer's frame, or a code.
  nb::object answer(nb::handle frame, size_t size, nb::bytes peer) {
    const View view(frame);
    if (size > view.size()) return nb::int_(static_cast<int>(RTA_FRAME_TRUNCATED));
    std::vector<uint8_t> out(rta_endpoint_bytes(core_, 1));
    int64_t bytes;
    {
      const nb::gil_scoped_release release;
      bytes = rta_endpoint_answer(core_, view.data(), size, peer.data(), peer.size(), out.data(), out.size());
    }
    if (bytes < 0) return nb::int_(bytes);
    return nb::bytes(out.data(), static_cast<size_t>(bytes));
  }

  nb::dict stats() const {
    rta_endpoint_stats s{};
    rta_endpoint_statistics(core_, &s);
    nb::dict refused, d;
    for (int i = 1; i < 16; ++i)
      if (s.refused[i]) refused[nb::int_(-i)] = s.refused[i];
    d["answered"] = s.answered;
    d["failed"] = s.failed;
    d["peers"] = s.peers;
    d["refused"] = refused;
    return d;
  }

  // False where a loop or another endpoint's server has the model.
  bool take() {
    if (serving_ > 0) return ++serving_, true;
    for (size_t i = 0; i < step_.held.size(); ++i)
      if (step_.held[i]->exchange(true)) {
        while (i-- > 0) *step_.held[i] = false;
        return false;
      }
    if (step_.step.prepare) step_.step.prepare(step_.step.self);
    serving_ = 1;
    return true;
  }
  void give_back() {
    if (--serving_ > 0) return;
    {
      const nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> last(alone_);  // a request from Python that began without the GIL
    }
    for (auto* held : step_.held) *held = false;
  }
  rta_endpoint* core() const { return core_; }

 private:
  static void check(const std::vector<size_t>& arrays, const size_t* bytes, int count) {
    if (arrays.size() != static_cast<size_t>(count)) throw nb::value_error("as many arrays as the step has tensors");
    for (int i = 0; i < count; ++i)
      if (arrays[static_cast<size_t>(i)] != bytes[i])
        throw nb::value_error("arrays of the bytes of the step's tensors");
  }
  static int run(void* self, const void* const* in, void* const* out) {
    auto* e = static_cast<Endpoint*>(self);
    const rta_step& s = e->step_.step;
    const std::lock_guard<std::mutex> alone(e->alone_);
    if (e->serving_ > 0) return s.step(s.self, in, out);
    const nb::gil_scoped_acquire gil;
    for (auto* held : e->step_.held)
      if (*held) return -1;
    return s.step(s.self, in, out);
  }

  nb::object kept_;
  rta_torch::LoopStep& step_;
  rta_endpoint* core_ = nullptr;
  std::mutex alone_;
  std::atomic<int> serving_{0};
};

class UdpServer {
 public:
  UdpServer(nb::object endpoint, int socket, int64_t spin_ns)
      : kept_(endpoint), endpoint_(nb::cast<Endpoint&>(endpoint)) {
    if (!endpoint_.take()) throw nb::value_error("a model that a running loop or server has");
    core_ = rta_udp_serve(endpoint_.core(), socket, spin_ns);
    if (!core_) {
      endpoint_.give_back();
      throw nb::value_error("frames larger than a datagram, or no thread to be had");
    }
  }
  UdpServer(const UdpServer&) = delete;
  ~UdpServer() { stop(); }
  void stop() {
    if (!core_) return;
    rta_udp_server* const core = core_;
    core_ = nullptr;
    {
      const nb::gil_scoped_release release;
      rta_udp_stop(core);
    }
    endpoint_.give_back();
  }

 private:
  nb::object kept_;
  Endpoint& endpoint_;
  rta_udp_server* core_ = nullptr;
};

// A connected socket with both ends of its frames: a request is written and sent in one call, an answer waited for,
// checked and read in another, without the GIL while it waits.
class UdpLink {
 public:
  UdpLink(int socket, nb::object writer, nb::object reader, int64_t spin_ns)
      : kept_(nb::make_tuple(writer, reader)),
        writer_(nb::cast<const Writer&>(writer)),
        reader_(nb::cast<const Reader&>(reader)),
        socket_(socket),
        spin_ns_(spin_ns),
        out_(writer_.bytes()),
        into_(RTA_UDP_MOST_BYTES + 1) {}

  void post(uint64_t session, uint64_t sequence, int64_t stamp_ns) {
    const int64_t size = writer_.write(out_.data(), out_.size(), RTA_FRAME_REQUEST, 0, session, sequence, stamp_ns);
    if (rta_udp_send(socket_, out_.data(), static_cast<size_t>(size)) < 0) raise();
  }

  // As Reader::read of an answer; None where none came.
  nb::object take(int64_t timeout_ns, uint64_t session, rta_frame_guard& guard) {
    int64_t size = rta_udp_receive(socket_, into_.data(), into_.size(), 0, 0);
    if (size == -1 && timeout_ns > 0) {
      const nb::gil_scoped_release release;
      size = rta_udp_receive(socket_, into_.data(), into_.size(), timeout_ns, spin_ns_);
    }
    if (size == -2) raise();
    if (size < 0) return nb::none();
    return reader_.read(into_.data(), static_cast<size_t>(size), RTA_FRAME_ANSWER, session, guard);
  }

 private:
  [[noreturn]] static void raise() {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
  nb::object kept_;
  const Writer& writer_;
  const Reader& reader_;
  int socket_;
  int64_t spin_ns_;
  std::vector<uint8_t> out_, into_;
};

}  // namespace

void add_remote(nb::module_& m) {
  nb::class_<Endpoint>(m, "FrameEndpoint", "Answers frames. Internal: use rtaccel.serve.remote.Endpoint.")
      .def(nb::init<nb::object, nb::object, nb::object, int64_t>())
      .def("answer", &Endpoint::answer)
      .def("stats", &Endpoint::stats);
  nb::class_<UdpServer>(m, "UdpServer", "A thread that answers datagrams. Internal: use rtaccel.serve.remote.udp.")
      .def(nb::init<nb::object, int, int64_t>())
      .def("stop", &UdpServer::stop);
  nb::class_<UdpLink>(m, "UdpLink", "Frames over a connected socket. Internal: use rtaccel.serve.remote.udp.")
      .def(nb::init<int, nb::object, nb::object, int64_t>())
      .def("post", &UdpLink::post)
      .def("take", &UdpLink::take);
}

}  // namespace rta_remote_py
