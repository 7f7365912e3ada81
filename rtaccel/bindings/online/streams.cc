// Streaming features and the detector of anomalies.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/online/arrays.h"
#include "bindings/online/online.h"
#include "bindings/timer.h"
#include "rta_online.h"

namespace nb = nanobind;

namespace rta_online {
namespace {

using Node = std::tuple<int, int, int, float, int>;  // as rta_bank_node
using Output = std::pair<int, float>;

class Bank {
 public:
  Bank(int64_t streams, int64_t channels, const std::vector<Node>& given, const std::vector<Output>& wanted)
      : streams(streams), channels(channels), bank_(nullptr, rta_bank_destroy) {
    std::vector<rta_bank_node> nodes;
    for (const auto& [kind, of, other, rate, length] : given) nodes.push_back({kind, of, other, rate, length});
    std::vector<rta_bank_output> outputs;
    for (const auto& [node, scale] : wanted) outputs.push_back({node, scale});
    bank_.reset(rta_bank_create(streams, channels, nodes.data(), static_cast<int>(nodes.size()), outputs.data(),
                                static_cast<int>(outputs.size())));
    if (!bank_) throw nb::value_error("a bank that is not valid, or no memory");
    width = rta_bank_width(bank_.get());
  }
  const int64_t streams, channels;
  int64_t width;
  rta_bank* get() const { return bank_.get(); }
  std::pair<int64_t, int64_t> size() const {
    std::pair<int64_t, int64_t> s;
    rta_bank_state_size(get(), &s.first, &s.second);
    return s;
  }
  void step(const In<float>& x, const Out<float>& y) {
    rta_bank_step(get(), numbers(x, streams * channels, "x"), numbers(y, streams * width, "out"));
  }
  void reset(int64_t first, int64_t count) {
    if (first < 0 || count < 0 || first + count > streams) throw nb::value_error("streams that are not there");
    rta_bank_reset(get(), first, count);
  }

 private:
  std::unique_ptr<rta_bank, void (*)(rta_bank*)> bank_;
};

class BankBound {
 public:
  BankBound(nb::object bank, In<float> x, Out<float> out)
      : owner_(bank), bank_(nb::cast<Bank*>(bank)), x_(x), out_(out) {
    from_ = numbers(x_, bank_->streams * bank_->channels, "x");
    to_ = numbers(out_, bank_->streams * bank_->width, "out");
  }
  void operator()() const { rta_bank_step(bank_->get(), from_, to_); }
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  nb::object owner_;
  Bank* bank_;
  In<float> x_;
  Out<float> out_;
  const float* from_;
  float* to_;
};

class Records {
 public:
  Records(int64_t streams, double range, double season, double jump)
      : streams(streams), records_(rta_records_create(streams, range, season, jump), rta_records_destroy) {
    if (!records_) throw nb::value_error("settings that are not valid, or no memory");
  }
  const int64_t streams;
  rta_records* get() const { return records_.get(); }
  void check(int64_t first, int64_t count) const {
    if (first < 0 || count < 0 || first + count > streams) throw nb::value_error("streams that are not there");
  }
  double score_one(double value, double seconds) {
    double score;
    check(0, 1);
    rta_records_series(get(), 0, &value, &seconds, 1, &score);
    return score;
  }
  void score_many(const In<double>& values, double seconds, const Out<double>& scores) {
    rta_records_score(get(), numbers(values, streams, "values"), seconds, numbers(scores, streams, "scores"));
  }
  void series(int64_t stream, const In<double>& values, std::optional<In<double>> seconds, const Out<double>& scores) {
    check(stream, 1);
    const int64_t n = static_cast<int64_t>(values.size());
    rta_records_series(get(), stream, values.data(), seconds ? numbers(*seconds, n, "seconds") : nullptr, n,
                       numbers(scores, n, "scores"));
  }
  int64_t bytes() const { return streams * static_cast<int64_t>(rta_records_stream_bytes()); }

 private:
  std::unique_ptr<rta_records, void (*)(rta_records*)> records_;
};

}  // namespace

void add_streams(nb::module_& m) {
  nb::class_<Bank>(m, "Bank", "Streaming features. Internal: use rtaccel.online.")
      .def(nb::init<int64_t, int64_t, const std::vector<Node>&, const std::vector<Output>&>())
      .def_ro("width", &Bank::width)
      .def("step", &Bank::step)
      .def("reset", &Bank::reset)
      .def("state_size", &Bank::size)
      .def("save",
           [](const Bank& bank, const Out<float>& floats, const Out<uint32_t>& integers) {
             const auto [f, i] = bank.size();
             rta_bank_save(bank.get(), numbers(floats, f, "floats"), numbers(integers, i, "integers"));
           })
      .def("load", [](Bank& bank, const In<float>& floats, const In<uint32_t>& integers) {
        const auto [f, i] = bank.size();
        rta_bank_load(bank.get(), numbers(floats, f, "floats"), numbers(integers, i, "integers"));
      });
  nb::class_<BankBound>(m, "BankBound", "A bank bound to its arrays: call it to read and write them.")
      .def(nb::init<nb::object, In<float>, Out<float>>())
      .def("__call__", &BankBound::operator())
      .def("time", &BankBound::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
  nb::class_<Records>(m, "Records", "A detector of anomalies. Internal: use rtaccel.online.")
      .def(nb::init<int64_t, double, double, double>())
      .def("score_one", &Records::score_one)
      .def("score_many", &Records::score_many)
      .def("series", &Records::series, nb::arg("stream"), nb::arg("values"), nb::arg("seconds").none(),
           nb::arg("scores"))
      .def("reset",
           [](Records& r, int64_t first, int64_t count) {
             r.check(first, count);
             rta_records_reset(r.get(), first, count);
           })
      .def("missing",
           [](const Records& r, int64_t stream) {
             r.check(stream, 1);
             return rta_records_missing(r.get(), stream);
           })
      .def("bytes", &Records::bytes)
      .def("save",
           [](const Records& r, const Out<uint8_t>& to) { rta_records_save(r.get(), numbers(to, r.bytes(), "state")); })
      .def("load", [](Records& r, const In<uint8_t>& from) {
        return rta_records_load(r.get(), numbers(from, r.bytes(), "state")) == RTA_ONLINE_OK;
      });
}

}  // namespace rta_online
