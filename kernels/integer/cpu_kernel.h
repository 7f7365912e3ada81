// Integer on the CPU. The contract is in contract.py.
//
// A line goes in blocks of 128 elements; each function is one loop over a block, which the compiler makes vectors of.
// Floor: bytes read and written over the bandwidth of the first cache. Index arithmetic is small beside what it
// selects.
#pragma once

#include <cstdio>
#include <vector>

#include "_common/checks.h"
#include "_common/lines.h"

namespace rta {

template <class S>
class IntegerStage final : public Stage {
 public:
  explicit IntegerStage(const StageSpec& spec) : y_(spec.out(0)) {
    expect_outputs(spec, 1, 1);
    count_ = between(spec.attrs, "count", 0, kMaxElements);
    n_ = between(spec.attrs, "along", 0, kMaxElements);
    char name[16];
    for (int i = 0;; ++i) {
      Operand o = {};
      int64_t constant = 0;  // its elements
      o.dtype = RTA_INT64;
      o.port = spec.in(i);
      if (i >= spec.input_count) {
        std::snprintf(name, sizeof name, "c%d", i - spec.input_count);
        if (!spec.attrs.has(name)) break;
        const int64_t size = constant = spec.attrs.count(name);
        int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(size) * sizeof(int64_t)));
        const int64_t* from = spec.attrs.longs(name, size);
        for (int64_t k = 0; k < size; ++k) to[k] = from[k];
        o.constant = reinterpret_cast<const char*>(to);
      } else {
        o.dtype = spec.input(i).dtype;
      }
      std::snprintf(name, sizeof name, "%d", i);
      o.walk = read_lines(spec, name, count_, n_, o.port, o.bytes(), constant);
      operands_.push_back(o);
    }
    gives_ = spec.output(0).dtype;
    if (gives_ == RTA_BFLOAT16 || gives_ == RTA_FLOAT16) fail("integer: gives %s", dtype_name(gives_));
    std::snprintf(name, sizeof name, "%d", static_cast<int>(operands_.size()));
    result_ = read_lines(spec, name, count_, n_, y_, dtype_bytes(gives_));
    read_program(spec);
    const bool copies = operands_.size() == 1 && !operands_[0].constant && steps_.size() == 1 &&
                        steps_[0].function == Function::copy && steps_[0].source[0].kind == 0;
    widens_ = copies && gives_ == RTA_FLOAT32 && count_ == 1 && operands_[0].bytes() <= 2 &&
              dense(operands_[0].walk, operands_[0].bytes()) && dense(result_, 4);
    spec.need_scratch((operands_.size() + steps_.size()) * kBlock * sizeof(int64_t));
  }

  bool refuses() const override { return divides_; }
  Dtypes takes() const override { return Dtypes::whole; }
  const char* refusal() const override {
    int64_t divisor;
    return outside_.take(&divisor) ? "integer: a division by zero" : nullptr;
  }

  void run(const Run& run) const override {
    if (widens_) return widen(run);
    int64_t* block = reinterpret_cast<int64_t*>(run.scratch);
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t line = 0; line < count_; ++line)
        for (int64_t i = 0; i < n_; i += kBlock) {
          const int64_t wide = n_ - i < kBlock ? n_ - i : kBlock;
          for (size_t k = 0; k < operands_.size(); ++k) load(operands_[k], run, s, line, i, wide, block + k * kBlock);
          int64_t* made = block + operands_.size() * kBlock;
          for (size_t k = 0; k < steps_.size(); ++k) apply(steps_[k], block, made, made + k * kBlock, wide);
          store(run, s, line, i, wide, made + (steps_.size() - 1) * kBlock);
        }
  }

 private:
  static constexpr int64_t kBlock = 128, kMaxProgram = 1 << 16;
  static constexpr int kInt8Zero = 128;  // a plan keeps int8 as bytes, this much larger

  struct Operand {
    GraphIO port;
    rta_dtype dtype;
    const char* constant;
    LineOperand walk;
    int64_t bytes() const { return dtype_bytes(dtype); }
  };
  enum class Function {
    copy,
    neg,
    abs,
    sign,
    bitwise_not,
    logical_not,
    truth,
    wrap32,
    add,
    sub,
    mul,
    floor_divide,
    trunc_divide,
    remainder,
    fmod,
    minimum,
    maximum,
    lt,
    le,
    gt,
    ge,
    eq,
    ne,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    logical_and,
    logical_or,
    logical_xor,
    where,
    kCount
  };
  struct Source {
    int kind;  // 0: an operand, 1: a number, 2: an earlier result
    int index;
  };
  struct Step {
    Function function;
    Source source[3];
  };

  void read_program(const StageSpec& spec) {
    static const char* const names[] = {"copy",        "neg",          "abs",          "sign",        "bitwise_not",
                                        "logical_not", "truth",        "wrap32",       "add",         "sub",
                                        "mul",         "floor_divide", "trunc_divide", "remainder",   "fmod",
                                        "minimum",     "maximum",      "lt",           "le",          "gt",
                                        "ge",          "eq",           "ne",           "bitwise_and", "bitwise_or",
                                        "bitwise_xor", "logical_and",  "logical_or",   "logical_xor", "where"};
    const int64_t numbers = between(spec.attrs, "number_count", 0, kMaxProgram);
    const int64_t* given = spec.attrs.longs("numbers", numbers > 0 ? numbers : 1);
    int64_t* kept = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(numbers + 1) * sizeof(int64_t)));
    for (int64_t k = 0; k < numbers; ++k) kept[k] = given[k];
    numbers_ = kept;
    const char* text = spec.attrs.text("functions");
    int64_t count = 1;
    for (const char* c = text; *c; ++c) count += *c == ',';
    expect(count <= kMaxProgram, "%lld functions", static_cast<long long>(count));
    const int32_t* code = spec.attrs.ints("code", 6 * count);
    const int64_t limits[] = {static_cast<int64_t>(operands_.size()), numbers, 0};
    for (int k = 0; k < count; ++k) {
      int length = 0;
      while (text[length] && text[length] != ',') ++length;
      Step step = {Function::kCount, {}};
      for (int f = 0; f < static_cast<int>(Function::kCount); ++f)
        if (__builtin_strlen(names[f]) == static_cast<size_t>(length) && !__builtin_memcmp(names[f], text, length))
          step.function = static_cast<Function>(f);
      if (step.function == Function::kCount) fail("integer: the function %.*s", length, text);
      for (int j = 0; j < 3; ++j) {
        const int kind = code[6 * k + 2 * j], index = code[6 * k + 2 * j + 1];
        expect(kind >= 0 && kind <= 2 && index >= 0 && index < (kind == 2 ? k : limits[kind]),
               "function %d reads number %d of kind %d", k, index, kind);
        step.source[j] = {kind, index};
      }
      divides_ |= step.function >= Function::floor_divide && step.function <= Function::fmod;
      steps_.push_back(step);
      text += length + (text[length] == ',');
    }
  }

  // Whether the elements of the line lie one behind the other.
  bool dense(const LineOperand& walk, int64_t bytes) const {
    for (int64_t k = 0; k < n_; ++k)
      if (walk.at(0, k) != k * bytes) return false;
    return true;
  }

  // One or two bytes as float32: images and sound come so, and are large.
  template <class From, int zero = 0>
  void widen_as(const Run& run) const {
    for (int64_t s = 0; s < run.samples; ++s) {
      const From* from = reinterpret_cast<const From*>(operands_[0].port.row(run, s * operands_[0].port.steps));
      float* to = reinterpret_cast<float*>(y_.row(run, s * y_.steps));
      for (int64_t k = 0; k < n_; ++k) to[k] = static_cast<float>(from[k] - zero);
    }
  }
  void widen(const Run& run) const {
    switch (operands_[0].dtype) {
      case RTA_INT8: return widen_as<uint8_t, kInt8Zero>(run);
      case RTA_INT16: return widen_as<int16_t>(run);
      default: return widen_as<uint8_t>(run);
    }
  }

  static int64_t read(rta_dtype dtype, const char* at) {
    switch (dtype) {
      case RTA_INT64: return *reinterpret_cast<const int64_t*>(at);
      case RTA_FLOAT32: return whole(*reinterpret_cast<const float*>(at));
      case RTA_INT32: return *reinterpret_cast<const int32_t*>(at);
      case RTA_INT16: return *reinterpret_cast<const int16_t*>(at);
      case RTA_INT8: return *reinterpret_cast<const uint8_t*>(at) - kInt8Zero;
      default: return *reinterpret_cast<const uint8_t*>(at);
    }
  }
  void load(const Operand& o, const Run& run, int64_t s, int64_t line, int64_t i, int64_t wide, int64_t* to) const {
    const char* from = o.constant ? o.constant : o.port.row(run, s * o.port.steps);
    for (int64_t k = 0; k < wide; ++k) to[k] = read(o.dtype, from + o.walk.at(line, i + k));
  }

  static int64_t whole(float x) {
    return x >= -9223372036854775808.0f && x < 9223372036854775808.0f ? static_cast<int64_t>(x) : INT64_MIN;
  }

  void store(const Run& run, int64_t s, int64_t line, int64_t i, int64_t wide, const int64_t* from) const {
    char* to = y_.row(run, s * y_.steps);
    for (int64_t k = 0; k < wide; ++k) {
      char* at = to + result_.at(line, i + k);
      switch (gives_) {
        case RTA_FLOAT32: *reinterpret_cast<float*>(at) = static_cast<float>(from[k]); break;
        case RTA_INT64: *reinterpret_cast<int64_t*>(at) = from[k]; break;
        case RTA_INT32: *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(from[k]); break;
        case RTA_INT16: *reinterpret_cast<int16_t*>(at) = static_cast<int16_t>(from[k]); break;
        case RTA_INT8: *reinterpret_cast<uint8_t*>(at) = static_cast<uint8_t>(from[k] + kInt8Zero); break;
        default: *reinterpret_cast<uint8_t*>(at) = static_cast<uint8_t>(from[k]);
      }
    }
  }

  template <class Body>
  static void each(int64_t wide, int64_t* y, Body body) {
    for (int64_t k = 0; k < wide; ++k) y[k] = body(k);
  }

  void apply(const Step& step, int64_t* operands, int64_t* made, int64_t* y, int64_t wide) const {
    const int64_t* p[3];
    int64_t stride[3];
    for (int j = 0; j < 3; ++j) {
      const Source& s = step.source[j];
      p[j] = s.kind == 0 ? operands + s.index * kBlock : s.kind == 1 ? numbers_ + s.index : made + s.index * kBlock;
      stride[j] = s.kind != 1;
    }
    const auto a = [&](int64_t k) { return p[0][k * stride[0]]; };
    const auto b = [&](int64_t k) { return p[1][k * stride[1]]; };
    const auto c = [&](int64_t k) { return p[2][k * stride[2]]; };
    const auto u = [](int64_t v) { return static_cast<uint64_t>(v); };
    const auto w = [](uint64_t v) { return static_cast<int64_t>(v); };
    switch (step.function) {
      case Function::copy: return each(wide, y, [&](int64_t k) { return a(k); });
      case Function::neg: return each(wide, y, [&](int64_t k) { return w(0 - u(a(k))); });
      case Function::abs: return each(wide, y, [&](int64_t k) { return a(k) < 0 ? w(0 - u(a(k))) : a(k); });
      case Function::sign: return each(wide, y, [&](int64_t k) { return int64_t{a(k) > 0} - int64_t{a(k) < 0}; });
      case Function::bitwise_not: return each(wide, y, [&](int64_t k) { return ~a(k); });
      case Function::logical_not: return each(wide, y, [&](int64_t k) { return int64_t{a(k) == 0}; });
      case Function::truth: return each(wide, y, [&](int64_t k) { return int64_t{a(k) != 0}; });
      case Function::wrap32:
        return each(wide, y, [&](int64_t k) { return int64_t{static_cast<int32_t>(static_cast<uint32_t>(u(a(k))))}; });
      case Function::add: return each(wide, y, [&](int64_t k) { return w(u(a(k)) + u(b(k))); });
      case Function::sub: return each(wide, y, [&](int64_t k) { return w(u(a(k)) - u(b(k))); });
      case Function::mul: return each(wide, y, [&](int64_t k) { return w(u(a(k)) * u(b(k))); });
      case Function::floor_divide:
      case Function::trunc_divide:
      case Function::remainder:
      case Function::fmod: return each(wide, y, [&](int64_t k) { return divided(step.function, a(k), b(k)); });
      case Function::minimum: return each(wide, y, [&](int64_t k) { return a(k) < b(k) ? a(k) : b(k); });
      case Function::maximum: return each(wide, y, [&](int64_t k) { return a(k) > b(k) ? a(k) : b(k); });
      case Function::lt: return each(wide, y, [&](int64_t k) { return int64_t{a(k) < b(k)}; });
      case Function::le: return each(wide, y, [&](int64_t k) { return int64_t{a(k) <= b(k)}; });
      case Function::gt: return each(wide, y, [&](int64_t k) { return int64_t{a(k) > b(k)}; });
      case Function::ge: return each(wide, y, [&](int64_t k) { return int64_t{a(k) >= b(k)}; });
      case Function::eq: return each(wide, y, [&](int64_t k) { return int64_t{a(k) == b(k)}; });
      case Function::ne: return each(wide, y, [&](int64_t k) { return int64_t{a(k) != b(k)}; });
      case Function::bitwise_and: return each(wide, y, [&](int64_t k) { return a(k) & b(k); });
      case Function::bitwise_or: return each(wide, y, [&](int64_t k) { return a(k) | b(k); });
      case Function::bitwise_xor: return each(wide, y, [&](int64_t k) { return a(k) ^ b(k); });
      case Function::logical_and: return each(wide, y, [&](int64_t k) { return int64_t{a(k) != 0 && b(k) != 0}; });
      case Function::logical_or: return each(wide, y, [&](int64_t k) { return int64_t{a(k) != 0 || b(k) != 0}; });
      case Function::logical_xor: return each(wide, y, [&](int64_t k) { return int64_t{(a(k) != 0) != (b(k) != 0)}; });
      case Function::where: return each(wide, y, [&](int64_t k) { return a(k) != 0 ? b(k) : c(k); });
      case Function::kCount: return;
    }
  }

  int64_t divided(Function function, int64_t a, int64_t b) const {
    if (b == 0) {
      outside_.note(0);
      return 0;
    }
    const bool quotient = function == Function::floor_divide || function == Function::trunc_divide;
    if (b == -1) return quotient ? static_cast<int64_t>(0 - static_cast<uint64_t>(a)) : 0;  // INT64_MIN / -1 traps
    const int64_t q = a / b, r = a % b;
    const bool below = r != 0 && (r < 0) != (b < 0);
    switch (function) {
      case Function::floor_divide: return q - below;
      case Function::trunc_divide: return q;
      case Function::remainder: return below ? r + b : r;
      default: return r;
    }
  }

  GraphIO y_;
  int64_t count_, n_;
  rta_dtype gives_;
  bool divides_ = false, widens_ = false;  // widens_: makes float32 of one or two bytes, and nothing else
  std::vector<Operand> operands_;
  std::vector<Step> steps_;
  const int64_t* numbers_;
  LineOperand result_;
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "integer", "cpu", nullptr, create_stage<IntegerStage<S>>);
}

}  // namespace rta
