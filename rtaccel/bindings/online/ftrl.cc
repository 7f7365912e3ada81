// The sparse head, and the hashing of named features.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/online/arrays.h"
#include "bindings/online/online.h"
#include "rta_online.h"

namespace nb = nanobind;

namespace rta_online {
namespace {

// FNV-1a of 64 bits, its halves folded: the same on every machine and in every process.
uint64_t hashed(std::string_view text, uint64_t state = 14695981039346656037ull) {
  for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return state;
}

std::string_view text_of(nb::handle object) {
  Py_ssize_t size;
  const char* text = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
  if (!text) throw nb::python_error();
  return {text, static_cast<size_t>(size)};
}

class FtrlHead {
 public:
  FtrlHead(int64_t dimensions, float alpha, float beta, float l1, float l2, bool logistic)
      : dimensions(dimensions),
        head_(rta_ftrl_create(dimensions, alpha, beta, l1, l2, logistic ? RTA_FTRL_LOGISTIC : RTA_FTRL_SQUARED),
              rta_ftrl_destroy) {
    if (!head_) throw nb::value_error("settings of a head that are not valid, or no memory");
  }
  const int64_t dimensions;
  rta_ftrl* get() const { return head_.get(); }

  // A dict of names to numbers, or to texts, which are features of their own. False for a value of another kind.
  bool hash(nb::dict sample) {
    indices_.clear();
    values_.clear();
    for (const auto& [key, value] : sample) {
      const nb::object name = PyUnicode_Check(key.ptr()) ? nb::borrow(key) : nb::steal(PyObject_Str(key.ptr()));
      if (!name.is_valid()) throw nb::python_error();
      uint64_t at = hashed(text_of(name));
      double number = 1.0;
      if (PyUnicode_Check(value.ptr())) {
        at = hashed(text_of(value), hashed("=", at));
      } else {
        number = PyFloat_AsDouble(value.ptr());
        if (number == -1.0 && PyErr_Occurred()) {
          PyErr_Clear();
          return false;
        }
      }
      indices_.push_back(static_cast<int64_t>((at ^ at >> 32) % static_cast<uint64_t>(dimensions)));
      values_.push_back(static_cast<float>(number));
    }
    return true;
  }
  std::vector<int64_t> indices_;
  std::vector<float> values_;

 private:
  std::unique_ptr<rta_ftrl, void (*)(rta_ftrl*)> head_;
};

std::pair<bool, float> learned(const FtrlHead& head, const int64_t* indices, const float* values, int64_t count,
                               float y, float weight) {
  float prediction;
  const bool ok = rta_ftrl_learn(head.get(), indices, values, count, y, weight, &prediction) == RTA_ONLINE_OK;
  return {ok, prediction};
}

}  // namespace

void add_ftrl(nb::module_& m) {
  nb::class_<FtrlHead>(m, "FtrlHead", "A sparse linear model. Internal: use rtaccel.online.")
      .def(nb::init<int64_t, float, float, float, float, bool>())
      .def("learn",
           [](FtrlHead& head, const In<int64_t>& indices, const In<float>& values, float y, float weight) {
             const int64_t n = static_cast<int64_t>(indices.size());
             return learned(head, indices.data(), numbers(values, n, "values"), n, y, weight);
           })
      .def("predict",
           [](const FtrlHead& head, const In<int64_t>& indices, const In<float>& values) {
             const int64_t n = static_cast<int64_t>(indices.size());
             return rta_ftrl_predict(head.get(), indices.data(), numbers(values, n, "values"), n);
           })
      .def("learn_named",  // None for a value that is no number and no text
           [](FtrlHead& head, nb::dict sample, float y, float weight) -> nb::object {
             if (!head.hash(sample)) return nb::none();
             return nb::cast(learned(head, head.indices_.data(), head.values_.data(),
                                     static_cast<int64_t>(head.indices_.size()), y, weight));
           })
      .def("predict_named",
           [](FtrlHead& head, nb::dict sample) -> nb::object {
             if (!head.hash(sample)) return nb::none();
             return nb::cast(rta_ftrl_predict(head.get(), head.indices_.data(), head.values_.data(),
                                              static_cast<int64_t>(head.indices_.size())));
           })
      .def("hash",
           [](FtrlHead& head, nb::dict sample) -> nb::object {
             if (!head.hash(sample)) return nb::none();
             nb::list found;
             for (const int64_t i : head.indices_) found.append(i);
             return std::move(found);
           })
      .def("nonzero", [](const FtrlHead& head) { return rta_ftrl_weights(head.get(), nullptr); })
      .def("weights",
           [](const FtrlHead& head, const Out<float>& w) {
             return rta_ftrl_weights(head.get(), numbers(w, head.dimensions, "w"));
           })
      .def("save",
           [](const FtrlHead& head, const Out<float>& z, const Out<float>& n, const Out<int64_t>& counts) {
             rta_ftrl_save(head.get(), numbers(z, head.dimensions, "z"), numbers(n, head.dimensions, "n"),
                           numbers(counts, 2, "counts"));
           })
      .def("load", [](FtrlHead& head, const In<float>& z, const In<float>& n, const In<int64_t>& counts) {
        return rta_ftrl_load(head.get(), numbers(z, head.dimensions, "z"), numbers(n, head.dimensions, "n"),
                             numbers(counts, 2, "counts")) == RTA_ONLINE_OK;
      });
}

}  // namespace rta_online
