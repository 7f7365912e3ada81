#include "harness.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace check {

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

int Random::between(int low, int high) {
  return low + static_cast<int>(bits() % static_cast<uint64_t>(high - low + 1));
}

float Random::normal() {
  double sum = -2;
  for (int i = 0; i < 4; ++i) sum += static_cast<double>(bits() >> 40) / (1 << 24);
  return static_cast<float>(sum * 1.7320508);
}

int8_t Random::int8(int low) {
  const int kind = between(0, 15);
  return static_cast<int8_t>(kind == 0 ? low : kind == 1 ? 127 : between(low, 127));
}

void Hash::add(const void* data, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) value_ = (value_ ^ p[i]) * 1099511628211ull;
}

constexpr size_t kCanaries = 128;
constexpr unsigned char kCanary = 0xc5;

size_t Guarded::slack = 0;

Guarded::Guarded(size_t capacity) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
  mapped_ = (capacity + kCanaries + slack + page_ - 1) / page_ * page_ + page_;
  void* start = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || mprotect(static_cast<char*>(start) + mapped_ - page_, page_, PROT_NONE) != 0) {
    std::perror("guard page");
    std::exit(2);
  }
  base_ = static_cast<char*>(start);
  place(0);
}

Guarded::~Guarded() { munmap(base_, mapped_); }

void* Guarded::place(size_t bytes) {
  if (bytes + kCanaries + slack > mapped_ - page_) {
    std::fprintf(stderr, "%zu bytes do not fit\n", bytes);
    std::exit(2);
  }
  used_ = bytes;
  char* start = base_ + mapped_ - page_ - slack - bytes;
  std::memset(start - kCanaries, kCanary, kCanaries);
  std::memset(start, 0x7f, bytes);  // 0x7f7f7f7f would be a number
  for (size_t i = 0; i + 4 <= bytes; i += 4) {
    const uint32_t nan = 0x7fc07f7f;
    std::memcpy(start + i, &nan, 4);
  }
  return start;
}

void* Guarded::place(const void* from, size_t bytes) {
  void* start = place(bytes);
  if (bytes) std::memcpy(start, from, bytes);
  return start;
}

bool Guarded::intact() const {
  const char* start = base_ + mapped_ - page_ - slack - used_ - kCanaries;
  for (size_t i = 0; i < kCanaries; ++i)
    if (static_cast<unsigned char>(start[i]) != kCanary) return false;
  return true;
}

static rta_attr named(const char* name, rta_attr_kind kind) {
  rta_attr attr{};
  attr.name = name;
  attr.kind = kind;
  return attr;
}

Attributes& Attributes::set(const char* name, int64_t value) {
  attrs_.push_back(named(name, RTA_ATTR_INT));
  attrs_.back().integer = value;
  return *this;
}
Attributes& Attributes::set(const char* name, double value) {
  attrs_.push_back(named(name, RTA_ATTR_FLOAT));
  attrs_.back().real = value;
  return *this;
}
Attributes& Attributes::set(const char* name, const char* text) {
  attrs_.push_back(named(name, RTA_ATTR_TEXT));
  attrs_.back().text = text;
  return *this;
}
Attributes& Attributes::set(const char* name, const void* data, rta_dtype dtype, int64_t count) {
  attrs_.push_back(named(name, RTA_ATTR_TENSOR));
  attrs_.back().data = data;
  attrs_.back().dtype = dtype;
  attrs_.back().count = count;
  return *this;
}

[[noreturn]] static void refused(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, rta_error());
  std::exit(2);
}

OneStage::OneStage(const char* op, const char* kernel, const std::vector<Shape>& inputs,
                   const std::vector<Shape>& outputs, const Attributes& attrs, size_t weight_bytes)
    : plan_(rta_plan_create(weight_bytes)) {
  if (!plan_) refused("a plan");
  std::vector<int> in, out;
  for (const Shape& s : inputs) in.push_back(rta_plan_value(plan_, s.dtype, s.steps, s.width, RTA_INPUT));
  for (const Shape& s : outputs) out.push_back(rta_plan_value(plan_, s.dtype, s.steps, s.width, RTA_OUTPUT));
  if (rta_plan_stage(plan_, op, kernel, in.data(), static_cast<int>(in.size()), out.data(),
                     static_cast<int>(out.size()), attrs.data(), attrs.size()) != 0 ||
      rta_plan_finish(plan_, 0, 0) != 0)
    refused(kernel);
}

OneStage::~OneStage() { rta_plan_destroy(plan_); }

void OneStage::run(std::vector<const void*> inputs, std::vector<void*> outputs, int64_t rows) {
  if (rta_plan_run(plan_, inputs.data(), outputs.data(), rows) != 0) refused("run");
}

void Report::expect(bool held, const char* format, ...) {
  ++cases;
  if (held) return;
  if (++failures > 5) return;
  va_list args;
  va_start(args, format);
  std::fputs("  FAILED: ", stdout);
  std::vprintf(format, args);
  std::fputs("\n", stdout);
  va_end(args);
}

double activation(const char* name, double parameter, double t) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("relu")) return t > 0 ? t : 0;
  if (is("leaky_relu")) return t > 0 ? t : t * parameter;
  if (is("elu")) return t > 0 ? t : parameter * std::expm1(t);
  if (is("gelu")) return t / 2 * (1 + std::erf(t / std::sqrt(2.0)));
  if (is("gelu_tanh"))
    return t / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (t + 0.044715 * t * t * t)));
  if (is("silu")) return t / (1 + std::exp(-t));
  if (is("tanh")) return std::tanh(t);
  if (is("sigmoid")) return 1 / (1 + std::exp(-t));
  return t;
}

}  // namespace check
