// Arrays of any library, by the buffer protocol or DLPack: what a model that was loaded without torch reads and writes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

#include "rta_model.h"

namespace rta_model_py {

// Memory of an array, held as long as this lives. Empty where the object is no array that fits.
class Array {
 public:
  Array() = default;
  Array(const Array&) = delete;
  Array(Array&& other) noexcept { take(other); }
  Array& operator=(Array&& other) noexcept {
    release();
    take(other);
    return *this;
  }
  ~Array() { release(); }

  // Why the object is not taken, or an empty text: then it is held, and data, samples and sizes are set.
  std::string open(PyObject* object, const rta_tensor& wanted, bool written);

  void* data = nullptr;
  int64_t samples = 1;  // product of the leading dimensions
  int64_t batch = 1;    // the first of them
  int64_t bytes = 0;

 private:
  void take(Array& other);
  void release();
  std::string check(const rta_tensor& wanted, const char* dtype, int rank, const int64_t* shape, int64_t item_bytes);

  Py_buffer buffer_{};
  bool has_buffer_ = false;
  nanobind::ndarray<> dlpack_;
};

const char* dtype_name(rta_dtype dtype);

}  // namespace rta_model_py
