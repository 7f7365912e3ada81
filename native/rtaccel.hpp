// rtaccel in C++17: models from files, with RAII and spans, over the C functions of rtaccel.h. Header only.
//
//   rtaccel::Model model("policy.rta");
//   std::vector<float> x(model.input(0).sample_elements), y(model.output(0).sample_elements);
//   model.step(x, y);                       // no allocation, no lock, no system call; throws rtaccel::Error
#ifndef RTACCEL_HPP
#define RTACCEL_HPP

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "rtaccel.h"

namespace rtaccel {

// What a C function said, and of which kind it is.
class Error : public std::runtime_error {
 public:
  Error(rta_code code, const char* text) : std::runtime_error(text), code_(code) {}
  rta_code code() const noexcept { return code_; }

 private:
  rta_code code_;
};

// Elements that lie one after the other: of a vector, an array, or a pointer and a count.
template <class T>
class Span {
 public:
  Span(T* data, std::size_t size) : data_(data), size_(size) {}
  template <class C, class = decltype(static_cast<T*>(std::declval<C&>().data()))>
  Span(C&& container) : data_(container.data()), size_(container.size()) {}  // NOLINT: meant to convert
  template <std::size_t N>
  Span(T (&array)[N]) : data_(array), size_(N) {}  // NOLINT
  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  T* data_;
  std::size_t size_;
};

// A model from a file. One thread steps it at a time.
class Model {
 public:
  explicit Model(const std::string& path, unsigned flags = 0, int threads = 1)
      : model_(rta_model_open_threaded(path.c_str(), flags, threads)) {
    if (!model_) fail();
  }
  Model(const void* data, std::size_t size, unsigned flags = 0, int threads = 1)
      : model_(rta_model_from_memory_threaded(data, size, flags, threads)) {
    if (!model_) fail();
  }
  Model(Model&& other) noexcept : model_(std::exchange(other.model_, nullptr)) {}
  Model& operator=(Model&& other) noexcept {
    std::swap(model_, other.model_);
    return *this;
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model() { rta_model_close(model_); }

  std::string name() const { return rta_model_name(model_); }
  int inputs() const { return rta_model_count(model_, 0); }
  int outputs() const { return rta_model_count(model_, 1); }
  rta_tensor input(int index) const { return tensor(0, index); }
  rta_tensor output(int index) const { return tensor(1, index); }
  std::int64_t streams() const { return rta_model_streams(model_); }

  // One call, of a model with any inputs and outputs.
  void step(const void* const* in, void* const* out, std::int64_t samples = 1) {
    if (rta_model_step(model_, in, out, samples) != 0) fail();
  }
  // One call of a model with one float32 input and one float32 output; checks the sizes.
  void step(Span<const float> x, Span<float> y, std::int64_t samples = 1) {
    check(0, x.size(), samples);
    check(1, y.size(), samples);
    const void* in = x.data();
    void* out = y.data();
    step(&in, &out, samples);
  }

  void reset() { reset(0, streams()); }
  void reset(std::int64_t first, std::int64_t count) {
    if (rta_model_reset(model_, first, count) != 0) fail();
  }
  std::vector<std::uint8_t> save_state() const {
    std::vector<std::uint8_t> bytes(rta_model_state_bytes(model_));
    rta_model_save_state(model_, bytes.data());
    return bytes;
  }
  void load_state(const std::vector<std::uint8_t>& bytes) {
    if (bytes.size() != rta_model_state_bytes(model_)) throw Error(RTA_BAD_ARGUMENT, "states of another model");
    if (rta_model_load_state(model_, bytes.data()) != 0) fail();
  }

  // From any thread; exchanged when the next step begins.
  void swap(const std::string& path, unsigned flags = 0) {
    if (rta_model_swap(model_, path.c_str(), flags) != 0) fail();
  }
  void rollback() {
    if (rta_model_rollback(model_) != 0) fail();
  }

  std::int64_t prefault() {
    const std::int64_t bytes = rta_model_prefault(model_);
    if (bytes < 0) fail();
    return bytes;
  }
  void lock() {
    if (rta_model_lock(model_) != 0) fail();
  }
  rta_model* get() const noexcept { return model_; }

 private:
  [[noreturn]] static void fail() { throw Error(rta_error_code(), rta_error()); }
  rta_tensor tensor(int output, int index) const {
    rta_tensor found;
    if (rta_model_tensor(model_, output, index, &found) != 0) fail();
    return found;
  }
  void check(int output, std::size_t size, std::int64_t samples) const {
    rta_tensor t;
    if (rta_model_count(model_, output) != 1 || rta_model_tensor(model_, output, 0, &t) != 0 ||
        t.dtype != RTA_FLOAT32 || size != static_cast<std::size_t>(t.sample_elements * samples))
      throw Error(RTA_BAD_ARGUMENT, output ? "y is not the one float32 output" : "x is not the one float32 input");
  }

  rta_model* model_;
};

}  // namespace rtaccel

#endif
