// Linear models in UD form, and calls bound to their arrays.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <optional>
#include <tuple>

#include "bindings/online/arrays.h"
#include "bindings/online/online.h"
#include "bindings/timer.h"
#include "rta_online.h"

namespace nb = nanobind;

namespace rta_online {
namespace {

class UdHead {
 public:
  UdHead(int64_t features, int64_t outputs, float p0, float noise, float forget, float d_max)
      : features(features),
        outputs(outputs),
        head_(rta_ud_create(features, outputs, p0, noise, forget, d_max), rta_ud_destroy) {
    if (!head_) throw nb::value_error("sizes or settings of a head that are not valid, or no memory");
  }
  const int64_t features, outputs;
  rta_ud* get() const { return head_.get(); }

 private:
  std::unique_ptr<rta_ud, void (*)(rta_ud*)> head_;
};

// What is learned gives its error before learning.
bool learned(UdHead& head, const float* phi, const float* y, float* error) {
  const bool ok = rta_ud_learn(head.get(), phi, y, error) == RTA_ONLINE_OK;
  for (int64_t o = 0; o < head.outputs; ++o) error[o] = y[o] - error[o];
  return ok;
}

bool learn(UdHead& head, const In<float>& phi, const In<float>& y, const Out<float>& error) {
  return learned(head, numbers(phi, head.features, "phi"), numbers(y, head.outputs, "y"),
                 numbers(error, head.outputs, "error"));
}

// Rows in order; how many were learned.
int64_t learn_many(UdHead& head, int64_t rows, const In<float>& phi, const In<float>& y, const Out<float>& error) {
  const float *x = numbers(phi, rows * head.features, "phi"), *wanted = numbers(y, rows * head.outputs, "y");
  float* to = numbers(error, rows * head.outputs, "error");
  int64_t count = 0;
  for (int64_t i = 0; i < rows; ++i)
    count += learned(head, x + i * head.features, wanted + i * head.outputs, to + i * head.outputs);
  return count;
}

void predict_many(const UdHead& head, int64_t rows, const In<float>& phi, const Out<float>& prediction) {
  const float* x = numbers(phi, rows * head.features, "phi");
  float* to = numbers(prediction, rows * head.outputs, "prediction");
  for (int64_t i = 0; i < rows; ++i) rta_ud_predict(head.get(), x + i * head.features, to + i * head.outputs);
}

std::tuple<int64_t, int64_t, int64_t> counts(const UdHead& head) {
  int64_t c[3];
  rta_ud_counts(head.get(), c);
  return {c[0], c[1], c[2]};
}

void save(const UdHead& head, const Out<float>& u, const Out<float>& d, const Out<float>& w, const Out<int64_t>& c) {
  rta_ud_save(head.get(), numbers(u, head.features * head.features, "U"), numbers(d, head.features, "D"),
              numbers(w, head.outputs * head.features, "w"), numbers(c, 3, "counts"));
}

bool load(UdHead& head, const In<float>& u, const In<float>& d, const In<float>& w, const In<int64_t>& c) {
  return rta_ud_load(head.get(), numbers(u, head.features * head.features, "U"), numbers(d, head.features, "D"),
                     numbers(w, head.outputs * head.features, "w"), numbers(c, 3, "counts")) == RTA_ONLINE_OK;
}

// A head with its arrays, which are kept alive: a call is the bare native one. Without y it predicts.
class UdBound {
 public:
  UdBound(nb::object head, In<float> phi, std::optional<In<float>> y, Out<float> out)
      : owner_(head), head_(nb::cast<UdHead*>(head)), phi_(phi), out_(out) {
    x_ = numbers(phi_, head_->features, "phi");
    to_ = numbers(out_, head_->outputs, "out");
    if (y) {
      y_ = *y;
      wanted_ = numbers(y_, head_->outputs, "y");
    }
  }
  void operator()() const {
    if (wanted_)
      rta_ud_learn(head_->get(), x_, wanted_, to_);
    else
      rta_ud_predict(head_->get(), x_, to_);
  }
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  nb::object owner_;
  UdHead* head_;
  In<float> phi_, y_;
  Out<float> out_;
  const float *x_, *wanted_ = nullptr;
  float* to_;
};

}  // namespace

void add_ud(nb::module_& m) {
  nb::class_<UdHead>(m, "UdHead", "A linear model in UD form. Internal: use rtaccel.online.")
      .def(nb::init<int64_t, int64_t, float, float, float, float>(), nb::arg("features"), nb::arg("outputs"),
           nb::arg("p0"), nb::arg("noise"), nb::arg("forget"), nb::arg("d_max"))
      .def("process_noise",
           [](UdHead& head, const In<float>& variances, int64_t every) {
             return rta_ud_process_noise(head.get(), numbers(variances, head.features, "variances"), every) ==
                    RTA_ONLINE_OK;
           })
      .def("learn", &learn)
      .def("learn_many", &learn_many)
      .def("predict_many", &predict_many)
      .def("variance",
           [](UdHead& head, const In<float>& phi) {
             return rta_ud_variance(head.get(), numbers(phi, head.features, "phi"));
           })
      .def("inflate", [](UdHead& head, float factor) { return rta_ud_inflate(head.get(), factor) == RTA_ONLINE_OK; })
      .def("counts", &counts)
      .def("weights",
           [](const UdHead& head, const Out<float>& w) {
             rta_ud_weights(head.get(), numbers(w, head.outputs * head.features, "w"));
           })
      .def("save", &save)
      .def("load", &load);
  nb::class_<UdBound>(m, "UdBound", "A head bound to its arrays: call it to read and write them.")
      .def(nb::init<nb::object, In<float>, std::optional<In<float>>, Out<float>>(), nb::arg("head"), nb::arg("phi"),
           nb::arg("y").none(), nb::arg("out"))
      .def("__call__", &UdBound::operator())
      .def("time", &UdBound::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
}

}  // namespace rta_online
