// Expressions on the CPU. What they mean is in operator.py; a chain, and what it costs, in chain.h.
//
// The iteration goes in blocks of up to 512 elements: a stretch of the innermost dimension, or whole runs of it where
// they are short. An operand that does not lie contiguously over a block is brought into one first; one that repeats
// over the outer of the two dimensions is brought once. Floor: bytes that are read and written over the bandwidth of
// the cache they are in, or a vector operation a function and 16 elements; 10 ns a block beside it.
#pragma once

#include <cstdio>

#include "_common/checks.h"
#include "_expression/chain.h"
#include "_expression/operands.h"

namespace rta {
namespace expression {

template <class S>
class ExpressionStage final : public Stage {
 public:
  explicit ExpressionStage(const StageSpec& spec) : inputs_(spec.input_count) {
    read_operands(spec);
    join_dims();
    read_chain(spec);
    spec.need_scratch(static_cast<size_t>((count_ + 1) * 2) * kPadded * sizeof(float) +
                      static_cast<size_t>(stored_) * kTile8 * sizeof(float));
  }

  int64_t cost_ns(int64_t samples) const override {
    int64_t elements = samples;
    for (int d = 0; d < dims_; ++d) elements *= size_[d];
    return elements * steps_count_ / 32;
  }

  void run(const Run& run) const override {
    const char* base[kMaxOperands + 1];
    for (int i = 0; i <= count_; ++i)
      base[i] = (operands_[i].port.exists() ? run.at[operands_[i].port.id]
                                            : reinterpret_cast<const char*>(operands_[i].constant)) +
                operands_[i].offset;
    Blocks blocks(*this, run);
    // The odometer over all dimensions but the last two.
    const int outer = dims_ > 2 ? dims_ - 2 : 0;
    int64_t index[kMaxDims];
    for (int d = 0; d < outer; ++d) index[d] = 0;
    while (true) {
      blocks.plane(base, index, run.samples);
      int d = outer - 1;
      for (; d >= 0; --d) {
        const int64_t n = d == 0 ? size_[0] * run.samples : size_[d];
        const bool wraps = ++index[d] == n;
        const int64_t step = wraps ? 1 - n : 1;
        for (int i = 0; i <= count_; ++i)
          if (!operands_[i].table) base[i] += step * operands_[i].stride[d];
        if (!wraps) break;
        index[d] = 0;
      }
      if (d < 0) return;
    }
  }

 private:
  using F = typename S::F;
  static constexpr int kMaxOperands = 64, kMaxNumbers = 192, kMaxPlaces = kMaxOperands + kMaxNumbers + 33,
                       kMaxLinks = 1 << 16;
  static constexpr int64_t kAlone = 128;  // elements of a run from which on it is a block of its own
  static constexpr int64_t kShort = 64;   // elements of a block below which it costs more than what it computes
  static constexpr int64_t kTile8 = 8 * S::kLanes, kTile2 = 2 * S::kLanes;

  // Blocks of the last two dimensions, with what was brought into a block of its own.
  class Blocks {
   public:
    Blocks(const ExpressionStage& stage, const Run& run) : stage_(stage) {
      own_ = reinterpret_cast<float*>(run.scratch);
      tail_ = own_ + (stage.count_ + 1) * kPadded;
      const int first = stage.count_ + 1;  // places: operands, result, numbers, stored
      for (int i = 0; i < stage.numbers_; ++i) at_[first + i] = {stage.tiles_ + i * kTile8, 0};
      float* stored = tail_ + (stage.count_ + 1) * kPadded;
      for (int i = 0; i < stage.stored_; ++i) at_[first + stage.numbers_ + i] = {stored + i * kTile8, 0};
      for (int i = 0; i <= stage.count_; ++i) at_[i].mask = -1, kept_[i] = 0;
    }

    void plane(const char* const* base, const int64_t* index, int64_t samples) {
      const ExpressionStage& s = stage_;
      const int last = s.dims_ - 1;
      const int64_t n = last == 0 ? s.size_[0] * samples : s.size_[last];
      const int64_t rows = last == 0 ? 1 : last == 1 ? s.size_[0] * samples : s.size_[last - 1];
      const bool alone = n >= kAlone && last > 0 && s.one_number_a_run();
      const int64_t together = n >= kBlock || alone ? 1 : kBlock / n, width = n < kBlock ? n : kBlock;
      for (int i = 0; i < s.count_; ++i)
        if (s.moves_[i]) kept_[i] = 0;
      for (int64_t r = 0; r < rows; r += together) {
        const int64_t more = rows - r < together ? rows - r : together;
        for (int64_t c = 0; c < n; c += width) {
          const int64_t wide = n - c < width ? n - c : width;
          block(base, index, r, more, c, wide, n);
        }
      }
    }

   private:
    void block(const char* const* base, const int64_t* index, int64_t r, int64_t rows, int64_t c, int64_t wide,
               int64_t n) {
      const ExpressionStage& s = stage_;
      const int last = s.dims_ - 1;
      for (int i = 0; i < s.count_; ++i) {
        const Operand& o = s.operands_[i];
        if (o.table) {
          gather(o, base[i], index, r, rows, c, wide, own_ + i * kPadded);
          at_[i].p = own_ + i * kPadded;
          continue;
        }
        const int64_t inner = o.stride[last], outer = last ? o.stride[last - 1] : 0;
        const char* from = base[i] + r * outer + c * inner;
        if (!o.int64 && inner == 4 && (rows == 1 || outer == 4 * n)) {
          at_[i].p = reinterpret_cast<float*>(const_cast<char*>(from));
          at_[i].mask = -1;
          continue;
        }
        float* to = own_ + i * kPadded;
        at_[i].p = to;
        at_[i].mask = -1;
        if (!o.int64 && inner == 0 && (rows == 1 || outer == 0)) {  // one number: a tile of it serves all
          copy_run<S>(to, from, 0, kTile8, false);
          at_[i].mask = 0;
          kept_[i] = 0;
          continue;
        }
        const bool repeats = outer == 0 && wide == n;
        if (repeats && kept_[i] >= rows) continue;
        if (repeats && inner == 0) {
          copy_run<S>(to, from, 0, rows * wide, o.int64);
        } else {
          for (int64_t k = 0; k < rows; ++k) copy_run<S>(to + k * wide, from + k * outer, inner, wide, o.int64);
        }
        kept_[i] = repeats ? rows : 0;
      }
      const Operand& y = s.operands_[s.count_];
      const int64_t inner = y.stride[last], outer = last ? y.stride[last - 1] : 0;
      char* to = const_cast<char*>(base[s.count_]) + r * outer + c * inner;
      const bool direct = inner == 4 && (rows == 1 || outer == 4 * n);
      float* made = direct ? reinterpret_cast<float*>(to) : own_ + s.count_ * kPadded;
      at_[s.count_].p = made;
      evaluate(rows * wide);
      if (direct) return;
      for (int64_t k = 0; k < rows; ++k) scatter_run<S>(to + k * outer, made + k * wide, inner, wide);
    }

    void gather(const Operand& o, const char* base, const int64_t* index, int64_t r, int64_t rows, int64_t c,
                int64_t wide, float* to) const {
      // With a table the dimensions are joined with no samples: (samples, steps, width) or fewer.
      const ExpressionStage& s = stage_;
      const int last = s.dims_ - 1;
      for (int64_t k = 0; k < rows; ++k)
        for (int64_t i = 0; i < wide; ++i) {
          int64_t flat = 0;
          for (int d = 0; d <= last; ++d) {
            const int64_t at = d == last ? c + i : d == last - 1 ? r + k : index[d];
            flat = flat * (d == 0 ? 1 : s.size_[d]) + at;
          }
          const int64_t sample = flat / s.per_sample_, e = flat % s.per_sample_;
          const char* p = base + sample * o.stride[0] + o.table[e];
          to[k * wide + i] =
              o.int64 ? static_cast<float>(*reinterpret_cast<const int64_t*>(p)) : *reinterpret_cast<const float*>(p);
        }
    }

    // The chain over `count` elements. The last of them, which fill no tile, go through copies that have room; what is
    // beyond them there is the last one again, so that no function meets a number that nobody gave it.
    void evaluate(int64_t count) {
      const ExpressionStage& s = stage_;
      int64_t k = 0;
      for (; k + kTile8 <= count; k += kTile8) go8(k, at_);
      if (count - k <= 3 * kTile2)
        for (; k + kTile2 <= count; k += kTile2) go2(k, at_);
      const int64_t left = count - k, tile = left <= kTile2 ? kTile2 : kTile8;
      if (left == 0) return;
      const int places = s.count_ + 1 + s.numbers_ + s.stored_;
      Place at[kMaxPlaces];
      for (int i = 0; i < places; ++i) at[i] = at_[i];
      for (int i = 0; i < s.count_; ++i) {
        if (at[i].p == own_ + i * kPadded) {
          if (at[i].mask && kept_[i] == 0) repeat_last(at[i].p + k, left, tile);
          continue;
        }
        float* to = tail_ + i * kPadded;
        copy_run<S>(to, reinterpret_cast<const char*>(at[i].p + k), 4, left, false);
        repeat_last(to, left, tile);
        at[i].p = to - k;
      }
      float* made = tail_ + s.count_ * kPadded;
      at[s.count_].p = made - k;
      if (tile == kTile2)
        go2(k, at);
      else
        go8(k, at);
      copy_run<S>(at_[s.count_].p + k, reinterpret_cast<const char*>(made), 4, left, false);
    }

    static void repeat_last(float* p, int64_t count, int64_t end) {
      const float last = p[count - 1];
      for (; count % S::kLanes; ++count) p[count] = last;
      for (; count < end; count += S::kLanes) S::store(p + count, S::set(last));
    }

    void go8(int64_t k, const Place* at) const {
      const F z = S::set(0.0f);
      reinterpret_cast<typename Chain8<S>::Go>(stage_.steps_[0].go8)(stage_.steps_, k, at, z, z, z, z, z, z, z, z);
    }
    void go2(int64_t k, const Place* at) const {
      const F z = S::set(0.0f);
      reinterpret_cast<typename Chain2<S>::Go>(stage_.steps_[0].go2)(stage_.steps_, k, at, z, z);
    }

    const ExpressionStage& stage_;
    float *own_, *tail_;
    Place at_[kMaxPlaces];
    int64_t kept_[kMaxOperands + 1];  // rows of a repeating operand that lie in its block
  };

  // Whether an operand has one number for each run of the innermost dimension, and another for the next.
  bool one_number_a_run() const {
    for (int i = 0; i < count_; ++i)
      if (!operands_[i].table && operands_[i].stride[dims_ - 1] == 0 && operands_[i].stride[dims_ - 2] != 0)
        return true;
    return false;
  }

  void read_operands(const StageSpec& spec) {
    const bool by_row = flag(spec.attrs, "by_row");
    expect_inputs(spec, 1, kMaxOperands);
    expect_ports(spec, spec.input_count, 1);
    expect_dtype(spec.output(0), RTA_FLOAT32, "y");
    char name[24];
    int constants = 0;
    while (constants <= kMaxOperands && spec.attrs.has(label(name, "c", constants))) ++constants;
    count_ = inputs_ + constants;
    const int64_t given = spec.attrs.count("dims");
    if (count_ > kMaxOperands || given + 1 > kMaxDims)
      fail("expression: %d operands over %d dimensions", count_, static_cast<int>(given));
    const int32_t* sizes = spec.attrs.ints("dims", given);
    const int32_t* strides = spec.attrs.ints("strides", 2 * (given + 1) * (count_ + 1));
    dims_ = static_cast<int>(given) + 1;
    size_[0] = 1;
    per_sample_ = 1;
    for (int d = 1; d < dims_; ++d) size_[d] = sizes[d - 1];
    per_sample_ = iteration_elements(sizes, given);
    const Value& y = spec.output(0);
    expect(per_sample_ == (by_row ? y.width : elements(y)),
           "an iteration over %lld elements for y of %lld rows of %lld", static_cast<long long>(per_sample_),
           static_cast<long long>(y.steps), static_cast<long long>(y.width));
    tables_ = false;
    for (int i = 0; i <= count_; ++i) {
      Operand& o = operands_[i];
      o = {};
      o.port = i < inputs_ ? spec.in(i) : i == count_ ? spec.out(0) : GraphIO{-1, 0, 0, 0};
      int64_t element = 4, steps = by_row ? 1 : o.port.steps, width = o.port.width;
      if (i < inputs_) {
        const rta_dtype dtype = spec.input(i).dtype;
        if (dtype != RTA_FLOAT32 && dtype != RTA_INT64) fail("expression: an input of dtype %d", dtype);
        o.int64 = dtype == RTA_INT64;
        element = o.int64 ? 8 : 4;
        if (by_row) expect(o.port.steps == y.steps, "x%d has other rows than y", i);
      } else if (i < count_) {
        o.constant = read_constant(spec, label(name, "c", i - inputs_));
        steps = 1, width = spec.attrs.count(name);
      }
      o.stride[0] = o.port.exists() ? o.port.pitch * (by_row ? 1 : o.port.steps) : 0;
      if (i < count_ && spec.attrs.has(label(name, "table", i))) {  // its other strides stay 0
        o.table = read_table(spec, name, per_sample_, o.port, element, product(steps, width));
        tables_ = true;
        continue;
      }
      const int32_t* own = strides + 2 * (given + 1) * i;
      expect_place(own, sizes, given, steps, width);
      o.offset = own[0] * o.port.pitch + own[1] * element;
      for (int d = 1; d < dims_; ++d)  // of size 1: whatever it says, it is not walked
        o.stride[d] = size_[d] == 1 ? 0 : own[2 * d] * o.port.pitch + own[2 * d + 1] * element;
    }
    if (by_row) size_[0] = operands_[count_].port.steps;  // every row is an iteration
  }

  static const char* label(char* name, const char* stem, int i) {
    std::snprintf(name, 24, "%s%d", stem, i);
    return name;
  }

  // Neighbors that every operand walks through in one stride become one dimension; those of size 1 go.
  void join_dims() {
    int kept = 1;
    for (int d = 1; d < dims_; ++d) {
      if (size_[d] == 1) continue;
      bool joins = !tables_;
      for (int i = 0; i <= count_ && joins; ++i)
        joins = operands_[i].stride[kept - 1] == size_[d] * operands_[i].stride[d];
      const int to = joins ? kept - 1 : kept;
      size_[to] = joins ? size_[to] * size_[d] : size_[d];
      for (int i = 0; i <= count_; ++i) operands_[i].stride[to] = operands_[i].stride[d];
      if (!joins) ++kept;
    }
    dims_ = kept;
    lengthen_blocks();
    for (int i = 0; i <= count_; ++i) {
      moves_[i] = false;
      for (int d = 0; d + 2 < dims_; ++d) moves_[i] |= operands_[i].stride[d] != 0;
    }
  }

  // Where the last two dimensions make short blocks, as those of many small matrices do, the longest come last: strides
  // cost less than blocks. Samples stay in front.
  void lengthen_blocks() {
    if (tables_ || dims_ < 3 || size_[dims_ - 1] * size_[dims_ - 2] >= kShort) return;
    if (size_[0] > 1 && dims_ < kMaxDims) {  // what was joined with the samples
      for (int d = dims_++; d > 0; --d) {
        size_[d] = size_[d - 1];
        for (int i = 0; i <= count_; ++i) operands_[i].stride[d] = operands_[i].stride[d - 1];
      }
      for (int i = 0; i <= count_; ++i) operands_[i].stride[0] *= size_[0];
      size_[0] = 1;
    }
    const int last = dims_ - 1;
    for (int end = last; end >= last - 1; --end) {
      int longest = end;
      for (int d = 1; d < end; ++d)
        if (size_[d] > size_[longest]) longest = d;
      for (int d = longest; d < end; ++d) {
        swap(size_[d], size_[d + 1]);
        for (int i = 0; i <= count_; ++i) swap(operands_[i].stride[d], operands_[i].stride[d + 1]);
      }
    }
  }

  static void swap(int64_t& a, int64_t& b) {
    const int64_t kept = a;
    a = b, b = kept;
  }

  void read_chain(const StageSpec& spec) {
    numbers_ = static_cast<int>(between(spec.attrs, "number_count", 0, kMaxNumbers));
    stored_ = static_cast<int>(between(spec.attrs, "stored", 0, 31));
    const float* given = spec.attrs.floats("numbers", numbers_ ? numbers_ : 1);
    tiles_ = static_cast<float*>(spec.arena->take(static_cast<size_t>(numbers_ * kTile8) * sizeof(float)));
    for (int i = 0; i < numbers_; ++i)
      for (int k = 0; k < kTile8; ++k) tiles_[i * kTile8 + k] = given[i];
    const char* links = spec.attrs.text("links");
    int64_t given_links = 1;
    for (const char* p = links; *p; ++p) given_links += *p == ',';
    expect(given_links <= kMaxLinks, "a chain of %lld", static_cast<long long>(given_links));
    const int count = static_cast<int>(given_links);
    const int32_t* places = spec.attrs.ints("operands", 2 * count);
    const float* parameters = spec.attrs.floats("parameters", count);
    steps_ = static_cast<Step*>(spec.arena->take(static_cast<size_t>(count + 1) * sizeof(Step)));
    steps_count_ = count;
    for (int i = 0; i < count; ++i) {
      char name[32];
      int n = 0;
      while (*links && *links != ',' && n < 31) name[n++] = *links++;
      name[n] = 0;
      if (*links == ',') ++links;
      steps_[i] = Steps<S>::named(name);
      if (!steps_[i].go8) fail("expression: no function '%s'", name);
      const int reads = steps_[i].reads;
      if (reads) steps_[i].a = shifted(places[2 * i], reads < 0);
      if (reads == 2) steps_[i].b = shifted(places[2 * i + 1], false);
      steps_[i].parameter = parameters[i];
    }
    steps_[count] = Steps<S>::last(count_);
  }

  // Places as the contract numbers them have no result between operands and numbers.
  // written: only results aside can be.
  int32_t shifted(int32_t place, bool written) const {
    const int32_t first = written ? count_ + numbers_ : 0, end = count_ + numbers_ + stored_;
    expect(place >= first && place < end, "place %d of an operand, expected %d to %d", place, first, end - 1);
    return place < count_ ? place : place + 1;
  }

  int inputs_, count_, dims_, numbers_, stored_, steps_count_;
  bool tables_;
  int64_t size_[kMaxDims], per_sample_;
  Operand operands_[kMaxOperands + 1];
  bool moves_[kMaxOperands + 1];
  float* tiles_;
  Step* steps_;
};

}  // namespace expression
}  // namespace rta
