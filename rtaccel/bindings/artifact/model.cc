#include "bindings/artifact/model.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/artifact/array.h"
#include "bindings/c_text.h"
#include "bindings/timer.h"
#include "model/open_model.h"
#include "rtaccel.h"

namespace nb = nanobind;

namespace rta_model_py {
namespace {

// A failure of the C library, as ValueError(code, text); rtaccel.deploy.native_errors makes the typed error of it.
[[noreturn]] void raise(int code, const std::string& text) {
  // A text that was cut to its place may end within a character.
  const auto size = static_cast<Py_ssize_t>(text.size());
  const nb::object said = nb::steal(PyUnicode_DecodeUTF8(text.data(), size, "replace"));
  PyErr_SetObject(PyExc_ValueError, nb::make_tuple(code, said).ptr());
  throw nb::python_error();
}
void checked(int64_t result) {
  if (result < 0) raise(rta_error_code(), rta_error());
}
constexpr int kShape = -1;  // an array that does not fit

class Model : public Opened {
 public:
  Model(nb::handle from, unsigned flags, int threads) {
    if (nb::isinstance<nb::bytes>(from)) {
      const auto bytes = nb::cast<nb::bytes>(from);
      model_.reset(rta_model_from_memory_threaded(bytes.data(), bytes.size(), flags, threads));
    } else {
      model_.reset(rta_model_open_threaded(rta_torch::c_text(nb::cast<std::string>(from)), flags, threads));
    }
    if (!model_) raise(rta_error_code(), rta_error());
  }

  std::string name() const { return rta_model_name(get()); }
  int64_t streams() const { return rta_model_streams(get()); }
  std::tuple<int64_t, int64_t> batch() const {
    int64_t least, most;
    rta_model_batch(get(), &least, &most);
    return {least, most};
  }
  using Described = std::tuple<std::string, std::string, std::vector<int64_t>>;
  std::vector<Described> tensors(bool outputs) const {
    std::vector<Described> all;
    for (const rta_tensor& t : get()->tensors[outputs ? 1 : 0])
      all.emplace_back(t.name, dtype_name(t.dtype), std::vector<int64_t>(t.shape, t.shape + t.rank));
    return all;
  }
  std::vector<std::tuple<std::string, std::string, std::string>> stages() const {
    std::vector<std::tuple<std::string, std::string, std::string>> all;
    for (const rta::Chosen& c : get()->chosen) all.emplace_back(c.name, c.op, c.kernel);
    return all;
  }
  std::tuple<size_t, nb::object> prepacked() const {
    const char* why = nullptr;
    const size_t bytes = rta_model_prepacked(get(), &why);
    return {bytes, why ? nb::cast(std::string(why)) : nb::none()};
  }
  nb::bytes pack() const {
    std::string image(rta_model_pack(get(), nullptr), '\0');
    rta_model_pack(get(), image.data());
    return nb::bytes(image.data(), image.size());
  }

  nb::bytes save_state() const {
    refuse_looped();
    std::string bytes(rta_model_state_bytes(get()), '\0');
    rta_model_save_state(get(), bytes.data());
    return nb::bytes(bytes.data(), bytes.size());
  }
  void load_state(nb::bytes from) {
    refuse_looped();
    if (from.size() != rta_model_state_bytes(get())) raise(RTA_BAD_ARGUMENT, "states of another model");
    checked(rta_model_load_state(get(), from.data()));
  }
  nb::bytes save_stream(int64_t stream) const {
    refuse_looped();
    rta_plan* plan = rta_model_plan(get());
    std::string bytes(rta_plan_stream_bytes(plan), '\0');
    if (rta_plan_save_stream(plan, stream, bytes.data()) != 0) raise(RTA_BAD_ARGUMENT, rta_error());
    return nb::bytes(bytes.data(), bytes.size());
  }
  void load_stream(int64_t stream, nb::bytes from) {
    refuse_looped();
    rta_plan* plan = rta_model_plan(get());
    if (from.size() != rta_plan_stream_bytes(plan)) raise(RTA_BAD_ARGUMENT, "states of another model");
    if (rta_plan_load_stream(plan, stream, from.data()) != 0) raise(RTA_BAD_ARGUMENT, rta_error());
  }
};

// A call with its arrays: looked at once, held as long as this lives.
class Call {
 public:
  Call(const Call&) = delete;
  // some: rows of some streams, whose numbers come with the call.
  Call(const Model& model, nb::handle inputs, nb::handle outputs, bool some = false)
      : owner_(model), model_(model.get()) {
    take(inputs, 0);
    take(outputs, 1);
    for (size_t i = 0; i < arrays_[1].size(); ++i) {
      for (const Array& input : arrays_[0]) apart(arrays_[1][i], input);
      for (size_t j = 0; j < i; ++j) apart(arrays_[1][i], arrays_[1][j]);
    }
    if (some) return;
    int64_t least, most;
    rta_model_batch(model_, &least, &most);
    const int64_t streams = rta_model_streams(model_), batch = arrays_[0].empty() ? 1 : arrays_[0][0].batch;
    const bool open = model_->tensors[0][0].lead > 0;
    if (streams ? samples_ != streams : open && (batch < least || (most >= 0 && batch > most)))
      raise(kShape, "a batch of " + std::to_string(batch) + "; expected " +
                        (streams    ? std::to_string(streams) + " streams"
                         : most < 0 ? "at least " + std::to_string(least)
                                    : std::to_string(least) + " to " + std::to_string(most)));
  }
  nb::object held;  // what keeps the memory of arrays where it is

  void operator()() const {
    owner_.refuse_looped();
    if (rta_model_step(model_, in_.data(), out_.data(), samples_) != 0) [[unlikely]]
      raise(RTA_BAD_ARGUMENT, rta_error());
  }
  // One call. release: without the GIL, for calls that take longer than handing it over.
  void once(bool release) const {
    owner_.refuse_looped();
    int code;
    if (release) {
      const nb::gil_scoped_release released;
      code = rta_model_step(model_, in_.data(), out_.data(), samples_);
    } else {
      code = rta_model_step(model_, in_.data(), out_.data(), samples_);
    }
    if (code != 0) raise(RTA_BAD_ARGUMENT, rta_error());
  }
  void once_of(const std::vector<int64_t>& streams, bool release) const {
    if (static_cast<int64_t>(streams.size()) != samples_)
      raise(kShape, std::to_string(samples_) + " rows for " + std::to_string(streams.size()) + " streams");
    owner_.refuse_looped();
    int code;
    if (release) {
      const nb::gil_scoped_release released;
      code = rta_model_step_some(model_, in_.data(), out_.data(), samples_, streams.data());
    } else {
      code = rta_model_step_some(model_, in_.data(), out_.data(), samples_, streams.data());
    }
    if (code != 0) raise(RTA_BAD_ARGUMENT, rta_error());
  }
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  static void apart(const Array& a, const Array& b) {
    const auto *p = static_cast<const char*>(a.data), *q = static_cast<const char*>(b.data);
    if (p < q + b.bytes && q < p + a.bytes) raise(kShape, "an output that overlaps an input or another output");
  }
  void take(nb::handle given, int which) {
    const auto& wanted = model_->tensors[which];
    const char* what = which ? "output " : "input ";
    if (!PyTuple_CheckExact(given.ptr()) || static_cast<size_t>(PyTuple_Size(given.ptr())) != wanted.size())
      raise(kShape, std::string("another number of ") + (which ? "outputs" : "inputs") + "; expected " +
                        std::to_string(wanted.size()));
    arrays_[which].resize(wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      Array& array = arrays_[which][i];
      const std::string wrong = array.open(PyTuple_GetItem(given.ptr(), static_cast<Py_ssize_t>(i)), wanted[i], which);
      if (!wrong.empty()) raise(kShape, what + std::to_string(i) + " (" + wanted[i].name + "): " + wrong);
      if (samples_ >= 0 && array.samples != samples_)
        raise(kShape, what + std::to_string(i) + " has " + std::to_string(array.samples) + " samples; expected " +
                          std::to_string(samples_));
      samples_ = array.samples;
      if (which)
        out_.push_back(array.data);
      else
        in_.push_back(array.data);
    }
  }

  const Model& owner_;
  rta_model* model_;
  std::vector<Array> arrays_[2];
  std::vector<const void*> in_;
  std::vector<void*> out_;
  int64_t samples_ = -1;
};

}  // namespace

void Opened::raise_looped() {
  nb::module_::import_("rtaccel.realtime.refusals").attr("raise_looped")();
  throw nb::python_error();  // not reached: it raised
}

void add_model(nb::module_& m) {
  nb::class_<Opened>(m, "OpenedModel");
  nb::class_<Model, Opened>(m, "Model", "A model from a file. Internal: use rtaccel.load.")
      .def(nb::init<nb::handle, unsigned, int>(), nb::arg("source"), nb::arg("flags"), nb::arg("threads"))
      .def_prop_ro("name", &Model::name)
      .def_prop_ro("streams", &Model::streams)
      .def_prop_ro("batch", &Model::batch)
      .def_prop_ro("stages", &Model::stages, "(name, op, kernel) of each stage")
      .def_prop_ro("state_bytes", [](const Model& m) { return rta_model_state_bytes(m.get()); })
      .def_prop_ro("packed_bytes", [](const Model& m) { return rta_plan_packed_bytes(rta_model_plan(m.get())); })
      .def_prop_ro("scratch_bytes", [](const Model& m) { return rta_plan_scratch_bytes(rta_model_plan(m.get())); })
      .def_prop_ro("prepacked", &Model::prepacked, "(bytes that the file had ready, why others were not taken)")
      .def("pack", &Model::pack, "an image of packed weights for files")
      .def("tensors", &Model::tensors, nb::arg("outputs"), "(name, dtype, shape) of each input or output")
      .def(
          "run",
          [](const Model& m, nb::handle inputs, nb::handle outputs, bool release) {
            Call(m, inputs, outputs).once(release);
          },
          nb::arg("inputs"), nb::arg("outputs"), nb::arg("release") = false)
      .def(
          "run_some",
          [](const Model& m, nb::handle inputs, nb::handle outputs, const std::vector<int64_t>& streams, bool release) {
            Call(m, inputs, outputs, true).once_of(streams, release);
          },
          nb::arg("inputs"), nb::arg("outputs"), nb::arg("streams"), nb::arg("release") = false)
      .def("reset",
           [](Model& m, int64_t first, int64_t count) {
             m.refuse_looped();
             checked(rta_model_reset(m.get(), first, count));
           })
      .def("save_state", &Model::save_state)
      .def("load_state", &Model::load_state)
      .def("save_stream", &Model::save_stream)
      .def("load_stream", &Model::load_stream)
      .def("swap",
           [](Model& m, nb::handle from, unsigned flags) {
             if (nb::isinstance<nb::bytes>(from)) {
               const auto bytes = nb::cast<nb::bytes>(from);
               checked(rta_model_swap_memory(m.get(), bytes.data(), bytes.size(), flags));
             } else {
               checked(rta_model_swap(m.get(), rta_torch::c_text(nb::cast<std::string>(from)), flags));
             }
           })
      .def("rollback", [](Model& m) { checked(rta_model_rollback(m.get())); })
      .def_prop_ro("pending", [](const Model& m) { return rta_model_pending(m.get()) != 0; })
      .def("prefault",
           [](Model& m) {
             const int64_t bytes = rta_model_prefault(m.get());
             if (bytes < 0) raise(RTA_OTHER, rta_error());
             return bytes;
           })
      .def("lock", [](Model& m) {
        if (rta_model_lock(m.get()) != 0) raise(RTA_OTHER, rta_error());
      });
  nb::class_<Call>(m, "BoundModel", "A model bound to its arrays: call it to read and write them.")
      .def(
          "__init__",
          [](Call* made, const Model& model, nb::handle inputs, nb::handle outputs, nb::object held) {
            new (made) Call(model, inputs, outputs);
            made->held = std::move(held);
          },
          nb::arg("model"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("held") = nb::none(), nb::keep_alive<1, 2>())
      .def("__call__", &Call::operator())
      .def("time", &Call::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
}

}  // namespace rta_model_py
