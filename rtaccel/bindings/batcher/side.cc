#include "bindings/batcher/side.h"

#include <nanobind/ndarray.h>

#include <algorithm>

#include "_system/dtypes.h"
#include "bindings/artifact/model.h"
#include "bindings/plan.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

bool many(Kind kind) { return kind != Kind::kX && kind != Kind::kY; }

class TorchSide : public Side {
 public:
  TorchSide(Plan* native, const Port& x, const Port& y) {
    const auto spec = [](const Port& port, int lead) { return Spec{dtype_of(port.first), lead, {}, port.second}; };
    const auto list = [](const char* dtype) { return Spec{dtype_of(dtype), 1, {}, {}}; };
    specs_ = {spec(x, 0), spec(x, 1), spec(y, 0), spec(y, 1), list("int64"), list("uint8")};
    in_bytes = static_cast<size_t>(specs_[0].width() * specs_[0].dtype.bytes);
    out_bytes = static_cast<size_t>(specs_[2].width() * specs_[2].dtype.bytes);
    plan = native->core();
    streams = native->state_samples();
    looped = &native->looped;
    const auto [in, out] = native->single(1);
    if (in != in_bytes || out != out_bytes) throw nb::value_error("a plan with several inputs or outputs");
  }

  bool view(nb::handle object, Kind kind, View& found) const override {
    dlpack::Tensor t;
    if (!rta_torch::view(object.ptr(), specs_[static_cast<size_t>(kind)], t, found.rows)) return false;
    found.data = t.data;
    return true;
  }

  nb::object fresh(Kind kind, int64_t rows, void*& data) const override {
    return rta_torch::fresh(specs_[static_cast<size_t>(kind)], &rows, data);
  }

 private:
  std::vector<Spec> specs_;
};

class ArraySide : public Side {
 public:
  ArraySide(rta_model_py::Opened& opened, const Port& x, const Port& y) {
    rta_model* model = opened.get();
    rta_tensor in, out;
    if (rta_model_count(model, 0) != 1 || rta_model_count(model, 1) != 1)
      throw nb::value_error("a model with several inputs or outputs");
    rta_model_tensor(model, 0, 0, &in);
    rta_model_tensor(model, 1, 0, &out);
    const auto tensor = [](rta_dtype dtype, const std::vector<int64_t>& shape, bool rows) {
      rta_tensor t = {};
      t.dtype = dtype;
      if (rows) t.shape[t.rank++] = -1;
      for (const int64_t n : shape) {
        if (t.rank == 8) throw nb::value_error("a row of more than 7 dimensions");
        t.shape[t.rank++] = n;
      }
      t.lead = rows;
      return t;
    };
    tensors_ = {tensor(in.dtype, x.second, false), tensor(in.dtype, x.second, true), tensor(out.dtype, y.second, false),
                tensor(out.dtype, y.second, true), tensor(RTA_INT64, {}, true),      tensor(RTA_UINT8, {}, true)};
    plan = rta_model_plan(model);
    streams = rta_model_streams(model);
    in_bytes = static_cast<size_t>(in.sample_elements * bytes_of(in.dtype));
    out_bytes = static_cast<size_t>(out.sample_elements * bytes_of(out.dtype));
    looped = &opened.looped;
  }

  bool view(nb::handle object, Kind kind, View& found) const override {
    if (!found.held.open(object.ptr(), tensors_[static_cast<size_t>(kind)], false).empty()) return false;
    found.data = found.held.data;
    found.rows = many(kind) ? found.held.samples : 1;
    return true;
  }

  nb::object fresh(Kind kind, int64_t rows, void*& data) const override {
    const rta_tensor& t = tensors_[static_cast<size_t>(kind)];
    size_t shape[8], elements = 1;
    for (int d = 0; d < t.rank; ++d) {
      shape[d] = static_cast<size_t>(t.shape[d] < 0 ? rows : t.shape[d]);
      elements *= shape[d];
    }
    const auto bytes = static_cast<size_t>(bytes_of(t.dtype));
    auto* memory = new char[std::max<size_t>(elements * bytes, 1)];
    data = memory;
    const nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<char*>(p); });
    using Code = nb::dlpack::dtype_code;
    const bool real = t.dtype == RTA_FLOAT32 || t.dtype == RTA_FLOAT16;
    const Code code = real ? Code::Float : t.dtype == RTA_UINT8 ? Code::UInt : Code::Int;
    const nb::dlpack::dtype type = {static_cast<uint8_t>(code), static_cast<uint8_t>(8 * bytes), 1};
    return nb::cast(nb::ndarray<nb::numpy>(memory, static_cast<size_t>(t.rank), shape, owner, nullptr, type));
  }

 private:
  static int64_t bytes_of(rta_dtype dtype) {
    if (dtype == RTA_BFLOAT16) throw nb::value_error("bfloat16, which NumPy has not");
    return rta::element_bytes(dtype);
  }
  std::vector<rta_tensor> tensors_;
};

}  // namespace

std::unique_ptr<Side> side_of(nb::handle model, const Port& x, const Port& y) {
  if (nb::isinstance<Plan>(model)) return std::make_unique<TorchSide>(nb::cast<Plan*>(model), x, y);
  return std::make_unique<ArraySide>(nb::cast<rta_model_py::Opened&>(model), x, y);
}

}  // namespace rta_torch
