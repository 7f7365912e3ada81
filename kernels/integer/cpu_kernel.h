// Integer on the CPU. The contract is in contract.py.
//
// A line goes in blocks of 128 elements; each function is one loop over a block, which the compiler makes vectors of.
// Samples whose elements follow one another are one line. Floor: bytes read and written over the bandwidth of the
// first cache. Index arithmetic is small beside what it selects.
#pragma once

#include <cstdio>
#include <vector>

#include "_common/checks.h"
#include "walk.h"
#include "whole.h"

namespace rta {

template <class S>
class IntegerStage final : public Stage {
 public:
  explicit IntegerStage(const StageSpec& spec) {
    expect_outputs(spec, 1, 1);
    count_ = between(spec.attrs, "count", 0, kMaxElements);
    n_ = between(spec.attrs, "along", 0, kMaxElements);
    char name[16];
    for (int i = 0;; ++i) {
      Walk o = {};
      int64_t size = 0;
      o.dtype = RTA_INT64;
      o.port = spec.in(i);
      if (i >= spec.input_count) {
        std::snprintf(name, sizeof name, "c%d", i - spec.input_count);
        if (!spec.attrs.has(name)) break;
        size = spec.attrs.count(name);
        int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(size) * sizeof(int64_t)));
        const int64_t* from = spec.attrs.longs(name, size);
        for (int64_t k = 0; k < size; ++k) to[k] = from[k];
        o.constant = reinterpret_cast<const char*>(to);
      } else {
        o.dtype = spec.input(i).dtype;
      }
      expect(i < kMaxOperands, "more than %d operands", kMaxOperands);
      std::snprintf(name, sizeof name, "%d", i);
      o.read(spec, name, count_, n_, size);
      operands_.push_back(o);
    }
    y_.port = spec.out(0);
    y_.dtype = spec.output(0).dtype;
    if (y_.dtype == RTA_BFLOAT16 || y_.dtype == RTA_FLOAT16) fail("integer: gives %s", dtype_name(y_.dtype));
    std::snprintf(name, sizeof name, "%d", static_cast<int>(operands_.size()));
    y_.read(spec, name, count_, n_);
    read_program(spec);
    const bool copies = operands_.size() == 1 && !operands_[0].constant && steps_.size() == 1 &&
                        steps_[0].function == Whole::copy && steps_[0].source[0].kind == 0;
    widens_ = copies && y_.dtype == RTA_FLOAT32 && count_ == 1 && dtype_bytes(operands_[0].dtype) <= 2 && n_ > 0 &&
              operands_[0].dense() && y_.dense();
    joins_ = y_.step > 0;
    for (const Walk& o : operands_) joins_ &= o.step >= 0;
    spec.need_scratch((operands_.size() + steps_.size() + kSources) * kIntegerBlock * sizeof(int64_t));
  }

  bool refuses() const override { return divides_; }
  Dtypes takes() const override { return Dtypes::whole; }
  const char* refusal() const override {
    int64_t divisor;
    return outside_.take(&divisor) ? "integer: a division by zero" : nullptr;
  }

  void run(const Run& run) const override {
    if (widens_) return widen(run);
    int64_t* scratch = reinterpret_cast<int64_t*>(run.scratch);
    if (joins_) return joined(run, scratch);
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t line = 0; line < count_; ++line)
        for (int64_t block = 0; block < y_.blocks; ++block) {
          const int64_t left = n_ - block * kIntegerBlock, wide = left < kIntegerBlock ? left : kIntegerBlock;
          const int64_t* read[kMaxOperands];
          for (size_t k = 0; k < operands_.size(); ++k) {
            const Walk& o = operands_[k];
            const char* from = o.sample(run, s);
            int64_t* to = scratch + static_cast<int64_t>(k) * kIntegerBlock;
            read[k] = to;
            o.each_piece(line, block, [&](int64_t at, int64_t step, int64_t done, int64_t length) {
              if (length == wide && step == 8 && o.dtype == RTA_INT64)
                read[k] = reinterpret_cast<const int64_t*>(from + at);
              else
                read_whole(o.dtype, from + at, step, length, to + done);
            });
          }
          const int64_t* made = compute(read, scratch, wide);
          char* y = y_.sample(run, s);
          y_.each_piece(line, block, [&](int64_t at, int64_t step, int64_t done, int64_t length) {
            write_whole(y_.dtype, made + done, y + at, step, length);
          });
        }
  }

 private:
  using Walk = IntegerWalk<S>;
  static constexpr int64_t kMaxProgram = 1 << 16;
  static constexpr int kSources = 3, kMaxOperands = 64;

  struct Source {
    int kind;  // 0: an operand, 1: a number, 2: an earlier result
    int index;
  };
  struct Step {
    Whole function;
    Source source[kSources];
  };

  void read_program(const StageSpec& spec) {
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
      Step step = {Whole::kCount, {}};
      for (int f = 0; f < static_cast<int>(Whole::kCount); ++f)
        if (__builtin_strlen(kWholeNames[f]) == static_cast<size_t>(length) &&
            !__builtin_memcmp(kWholeNames[f], text, length))
          step.function = static_cast<Whole>(f);
      if (step.function == Whole::kCount) fail("integer: the function %.*s", length, text);
      for (int j = 0; j < 3; ++j) {
        const int kind = code[6 * k + 2 * j], index = code[6 * k + 2 * j + 1];
        expect(kind >= 0 && kind <= 2 && index >= 0 && index < (kind == 2 ? k : limits[kind]),
               "function %d reads number %d of kind %d", k, index, kind);
        step.source[j] = {kind, index};
      }
      divides_ |= step.function >= Whole::floor_divide && step.function <= Whole::fmod;
      steps_.push_back(step);
      text += length + (text[length] == ',');
    }
  }

  // All samples as one line: elements in one step from the first.
  void joined(const Run& run, int64_t* scratch) const {
    const int64_t total = run.samples * n_;
    for (int64_t i = 0; i < total; i += kIntegerBlock) {
      const int64_t wide = total - i < kIntegerBlock ? total - i : kIntegerBlock;
      const int64_t* read[kMaxOperands];
      for (size_t k = 0; k < operands_.size(); ++k) {
        const Walk& o = operands_[k];
        const char* from = o.sample(run, 0) + o.lines.at(0, 0) + i * o.step;
        int64_t* to = scratch + static_cast<int64_t>(k) * kIntegerBlock;
        const bool lies = o.step == 8 && o.dtype == RTA_INT64;
        read[k] = lies ? reinterpret_cast<const int64_t*>(from) : to;
        if (!lies) read_whole(o.dtype, from, o.step, wide, to);
      }
      char* y = y_.sample(run, 0) + y_.lines.at(0, 0) + i * y_.step;
      write_whole(y_.dtype, compute(read, scratch, wide), y, y_.step, wide);
    }
  }

  // The result of a block.
  const int64_t* compute(const int64_t* const* read, int64_t* scratch, int64_t wide) const {
    int64_t* made = scratch + static_cast<int64_t>(operands_.size()) * kIntegerBlock;
    int64_t* numbers = made + static_cast<int64_t>(steps_.size()) * kIntegerBlock;
    for (size_t k = 0; k < steps_.size(); ++k) {
      const int64_t* p[kSources] = {};
      for (int j = 0; j < operands_of(steps_[k].function); ++j) {
        const Source& s = steps_[k].source[j];
        if (s.kind == 1) {
          int64_t* to = numbers + j * kIntegerBlock;
          for (int64_t i = 0; i < wide; ++i) to[i] = numbers_[s.index];
          p[j] = to;
        } else {
          p[j] = s.kind == 0 ? read[s.index] : made + s.index * kIntegerBlock;
        }
      }
      apply_whole(steps_[k].function, p[0], p[1], p[2], made + static_cast<int64_t>(k) * kIntegerBlock, wide, outside_);
    }
    return made + static_cast<int64_t>(steps_.size() - 1) * kIntegerBlock;
  }

  // One or two bytes as float32: images and sound come so, and are large.
  template <class From, int zero = 0>
  void widen_as(const Run& run) const {
    for (int64_t s = 0; s < run.samples; ++s) {
      const From* from = reinterpret_cast<const From*>(operands_[0].sample(run, s));
      float* to = reinterpret_cast<float*>(y_.sample(run, s));
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

  Walk y_ = {};
  int64_t count_, n_;
  bool divides_ = false, widens_ = false;  // widens_: makes float32 of one or two bytes, and nothing else
  bool joins_ = false;                     // all samples are one line
  std::vector<Walk> operands_;
  std::vector<Step> steps_;
  const int64_t* numbers_;
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "integer", "cpu", nullptr, create_stage<IntegerStage<S>>);
}

}  // namespace rta
