// torch's tensors as the native core takes them: pointers and rows, read through the DLPack exchange interface.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "_core/rta_plan.h"
#include "bindings/dlpack_exchange.h"

namespace rta_torch {

// Finds torch's exchange interface. Called once, before anything else here. plain, negated: tensors without and with
// the negative bit, in pairs, by which the place of that bit is found. holder: keeps the memory of a tensor.
void connect(nanobind::handle tensor, nanobind::handle parameter, nanobind::handle refusal, nanobind::handle holder,
             nanobind::list plain, nanobind::list negated);

// What keeps the memory of a tensor where it is, whatever becomes of the tensor.
nanobind::object held(nanobind::handle tensor);

// Whether the place of the negative bit is known; torch is asked for each tensor where it is not.
bool knows_negative_bit();

// A stage refused the numbers of a call: raises the typed error that Python makes of the reason.
[[noreturn]] void raise_refusal();

// A dtype as torch names it, as the core and as DLPack do, and its size.
struct Dtype {
  const char* name;
  rta_dtype core;
  uint8_t code;
  int bytes;
};
const Dtype& dtype_of(const std::string& name);

// A tensor of a plan: `lead` leading dimensions are rows, the trailing ones are fixed. middle: the sizes of the leading
// dimensions behind the first, where they are fixed too; empty where they are open.
struct Spec {
  Dtype dtype;
  int lead;
  std::vector<int64_t> middle;
  std::vector<int64_t> trailing;
  int64_t width() const {
    int64_t product = 1;
    for (int64_t d : trailing) product *= d;
    return product;
  }
  int64_t bytes(int64_t rows) const { return rows * width() * dtype.bytes; }
};

constexpr int kMaxDims = 8, kMaxTensors = 128;

// Pointer and rows of a tensor that fits the spec as it is; false for anything else.
bool view(PyObject* object, const Spec& spec, dlpack::Tensor& t, int64_t& rows);

// A fresh tensor of the spec with these leading dimensions; `data` is where its numbers go.
nanobind::object fresh(const Spec& spec, const int64_t* lead, void*& data);

}  // namespace rta_torch
