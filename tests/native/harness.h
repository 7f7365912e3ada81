// What the native checks share: memory that ends at a guard page, fixed random numbers, a hash, plans through the C
// ABI.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "_core/rta_plan.h"

namespace check {

// The same numbers on every machine (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  int between(int low, int high);  // both included
  float normal();                  // near enough: the sum of four uniform numbers, variance 1
  int8_t int8(int low = -128);     // one in eight is an extreme

 private:
  uint64_t state_;
};

// FNV-1a over bytes.
class Hash {
 public:
  void add(const void* data, size_t bytes);
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 14695981039346656037ull;
};

// Memory whose last byte lies before a page that cannot be touched, with canaries in front.
class Guarded {
 public:
  static size_t slack;  // bytes between the end and the guard page: 0, or 64 where an emulator reads masked lanes
  explicit Guarded(size_t capacity);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  void* place(size_t bytes);                    // ends at the guard page, filled with NaN (float) or 0x7f (bytes)
  void* place(const void* from, size_t bytes);  // the same, filled with a copy
  bool intact() const;                          // nothing was written in front of what was placed last

  template <class T>
  T* put(const T* from, size_t count) {
    return static_cast<T*>(place(from, count * sizeof(T)));
  }

 private:
  char* base_;
  size_t mapped_, page_, used_ = 0;
};

class Attributes {
 public:
  Attributes& set(const char* name, int64_t value);
  Attributes& set(const char* name, double value);
  Attributes& set(const char* name, const char* text);
  Attributes& set(const char* name, const void* data, rta_dtype dtype, int64_t count);
  const rta_attr* data() const { return attrs_.data(); }
  int size() const { return static_cast<int>(attrs_.size()); }

 private:
  std::vector<rta_attr> attrs_;
};

struct Shape {
  rta_dtype dtype;
  int64_t width;
  int64_t steps = 1;
};

// A plan of one stage; the program ends with the core's reason where it cannot be made.
class OneStage {
 public:
  OneStage(const char* op, const char* kernel, const std::vector<Shape>& inputs, const std::vector<Shape>& outputs,
           const Attributes& attrs, size_t weight_bytes);
  ~OneStage();
  OneStage(const OneStage&) = delete;
  OneStage& operator=(const OneStage&) = delete;
  void run(std::vector<const void*> inputs, std::vector<void*> outputs, int64_t rows);

 private:
  rta_plan* plan_;
};

// What came out of the checks of one kernel.
struct Report {
  bool quick = false;  // a part of the sizes, for emulated processors
  long cases = 0;
  int failures = 0;
  Hash integers;  // of every integer output: equal on every instruction set and architecture

  void expect(bool held, const char* format, ...) __attribute__((format(printf, 3, 4)));
};

void check_linear(const char* kernel, Report& report);
void check_linear_weights(const char* kernel, Report& report);
void check_quantize(const char* kernel, Report& report);
void check_pointwise(const char* kernel, Report& report);
void check_sparse_linear(const char* kernel, Report& report);
void check_softmax(const char* kernel, Report& report);
std::vector<std::pair<std::string, Report>> check_vectors();  // by instruction set
void check_online_abi(Report& report);
void check_frames(Report& report);
void check_endpoint(Report& report);
void check_cascade(Report& report);
void check_workers(Report& report);
void check_door(Report& report);
void check_threads(Report& report);
void check_plan(Report& report);
void check_batcher(Report& report);
void check_gpu(Report& report);
void check_realtime(Report& report);
std::vector<std::pair<std::string, Report>> check_online(bool quick);  // the same

// By operator and kernel: the conformance cases in a file of write_cases.py.
void replay_cases(const char* path, std::map<std::pair<std::string, std::string>, Report>& reports);

// Named by the message of a fault, as when a kernel touches a guard page.
void running(const char* op, const char* kernel, const char* what);
void report_faults();

double activation(const char* name, double parameter, double t);  // by libm, in double

}  // namespace check
