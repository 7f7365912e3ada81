// The model of a batcher with the arrays of its callers: torch's tensors for a compiled stream, any library's for one
// from a file.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/artifact/array.h"
#include "rta_plan.h"

namespace rta_torch {

// What results are, and lists: a row or rows of x or y, whole numbers, statuses.
enum class Kind { kX, kXs, kY, kYs, kLongs, kBytes };

class Side {
 public:
  struct View {
    const void* data = nullptr;
    int64_t rows = 0;
    rta_model_py::Array held;
  };
  virtual ~Side() = default;
  // Memory of an array that fits as it is; false for anything else.
  virtual bool view(nanobind::handle object, Kind kind, View& view) const = 0;
  // A fresh array; `data` is where its numbers go. rows: of those kinds that have them.
  virtual nanobind::object fresh(Kind kind, int64_t rows, void*& data) const = 0;

  rta_plan* plan = nullptr;
  int64_t streams = 0;
  size_t in_bytes = 0, out_bytes = 0;  // of one stream
  std::atomic<bool>* looped = nullptr;
};

using Port = std::pair<std::string, std::vector<int64_t>>;  // (dtype, shape) of one stream
// model: a Plan, or an OpenedModel.
std::unique_ptr<Side> side_of(nanobind::handle model, const Port& x, const Port& y);

}  // namespace rta_torch
