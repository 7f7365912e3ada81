// Where a bound tensor's numbers lie, and whether they lie there still, in some loads.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "bindings/tensor.h"

namespace rta_torch {

// A float32 tensor of so many numbers. Its storage is kept alive: the place may be gone from the tensor, the memory is
// not, unless the storage itself was resized.
class Place {
 public:
  Place(nanobind::object tensor, int64_t words);  // throws nanobind::value_error where it cannot be read as it lies

  void* data() const { return data_; }
  nanobind::handle tensor() const { return tensor_; }
  // Whether the tensor has this storage still, from the same number on, and the storage this memory.
  bool same() const;

 private:
  void* now() const;  // by way of the exchange interface; null where it does not fit any more
  void find();

  nanobind::object tensor_, storage_;
  Spec spec_;
  void* data_;
  // What is compared where torch's own words are known: the tensor's storage and first number, the storage's memory.
  const char* impl_ = nullptr;
  uint64_t held_ = 0, offset_ = 0, memory_ = 0;
  size_t object_at_ = 0, storage_at_ = 0, offset_at_ = 0, memory_at_ = 0;
};

}  // namespace rta_torch
