// An expression block by block: up to 512 elements of the last two dimensions of its iteration, each operand as it lies
// or brought into a block of its own, and the chain of functions over them.
#pragma once

#include "_expression/chain.h"
#include "_expression/iteration.h"

namespace rta {
namespace expression {

constexpr int kMaxNumbers = 192, kMaxStored = 31, kMaxPlaces = kMaxOperands + kMaxNumbers + kMaxStored + 2;
constexpr int64_t kAlone = 128;  // elements of a run from which on it is a block of its own

// What is computed for each element. numbers: constants, each with a tile of it among the weights; stored: results that
// are kept aside for a later step.
struct Formula {
  int numbers, stored, count;
  float* tiles;
  Step* steps;  // count of them, and the last, which writes the result
};

// Blocks of the last two dimensions, with what was brought into a block of its own.
template <class S>
class Blocks {
 public:
  static constexpr int64_t kTile8 = 8 * S::kLanes, kTile2 = 2 * S::kLanes;

  Blocks(const Iteration& walk, const Formula& formula, char* scratch) : walk_(walk), formula_(formula) {
    own_ = reinterpret_cast<float*>(scratch);
    tail_ = own_ + (walk.count + 1) * kPadded;
    const int first = walk.count + 1;  // places: operands, result, numbers, stored
    for (int i = 0; i < formula.numbers; ++i) at_[first + i] = {formula.tiles + i * kTile8, 0};
    float* stored = tail_ + (walk.count + 1) * kPadded;
    for (int i = 0; i < formula.stored; ++i) at_[first + formula.numbers + i] = {stored + i * kTile8, 0};
    for (int i = 0; i <= walk.count; ++i) at_[i].mask = -1, kept_[i] = 0;
  }

  void plane(const char* const* base, const int64_t* index, int64_t samples) {
    const Iteration& walk = walk_;
    const int last = walk.dims - 1;
    const int64_t n = last == 0 ? walk.size[0] * samples : walk.size[last];
    const int64_t rows = last == 0 ? 1 : last == 1 ? walk.size[0] * samples : walk.size[last - 1];
    const bool alone = n >= kAlone && last > 0 && walk.one_number_a_run();
    const int64_t together = n >= kBlock || alone ? 1 : kBlock / n, width = n < kBlock ? n : kBlock;
    for (int i = 0; i < walk.count; ++i)
      if (walk.moves[i]) kept_[i] = 0;
    for (int64_t r = 0; r < rows; r += together) {
      const int64_t more = rows - r < together ? rows - r : together;
      for (int64_t c = 0; c < n; c += width) {
        const int64_t wide = n - c < width ? n - c : width;
        block(base, index, r, more, c, wide, n);
      }
    }
  }

  // Bytes of scratch.
  static size_t scratch(const Iteration& walk, const Formula& formula) {
    return static_cast<size_t>((walk.count + 1) * 2) * kPadded * sizeof(float) +
           static_cast<size_t>(formula.stored) * kTile8 * sizeof(float);
  }

 private:
  using F = typename S::F;
  void block(const char* const* base, const int64_t* index, int64_t r, int64_t rows, int64_t c, int64_t wide,
             int64_t n) {
    const Iteration& walk = walk_;
    const int last = walk.dims - 1;
    for (int i = 0; i < walk.count; ++i) {
      const Operand& o = walk.operands[i];
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
        copy_runs<S>(to, from, outer, inner, rows, wide, o.int64);
      }
      kept_[i] = repeats ? rows : 0;
    }
    const Operand& y = walk.operands[walk.count];
    const int64_t inner = y.stride[last], outer = last ? y.stride[last - 1] : 0;
    char* to = const_cast<char*>(base[walk.count]) + r * outer + c * inner;
    const bool direct = inner == 4 && (rows == 1 || outer == 4 * n);
    float* made = direct ? reinterpret_cast<float*>(to) : own_ + walk.count * kPadded;
    at_[walk.count].p = made;
    evaluate(rows * wide);
    if (direct) return;
    for (int64_t k = 0; k < rows; ++k) scatter_run<S>(to + k * outer, made + k * wide, inner, wide);
  }

  void gather(const Operand& o, const char* base, const int64_t* index, int64_t r, int64_t rows, int64_t c,
              int64_t wide, float* to) const {
    // With a table the dimensions are joined with no samples: (samples, steps, width) or fewer.
    const Iteration& walk = walk_;
    const int last = walk.dims - 1;
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t i = 0; i < wide; ++i) {
        int64_t flat = 0;
        for (int d = 0; d <= last; ++d) {
          const int64_t at = d == last ? c + i : d == last - 1 ? r + k : index[d];
          flat = flat * (d == 0 ? 1 : walk.size[d]) + at;
        }
        const int64_t sample = flat / walk.per_sample, e = flat % walk.per_sample;
        const char* p = base + sample * o.stride[0] + o.table[e];
        to[k * wide + i] =
            o.int64 ? static_cast<float>(*reinterpret_cast<const int64_t*>(p)) : *reinterpret_cast<const float*>(p);
      }
  }

  // The chain over `count` elements. The last of them, which fill no tile, go through copies that have room; what is
  // beyond them there is the last one again, so that no function meets a number that nobody gave it.
  void evaluate(int64_t count) {
    const Iteration& walk = walk_;
    int64_t k = 0;
    for (; k + kTile8 <= count; k += kTile8) go8(k, at_);
    if (count - k <= 3 * kTile2)
      for (; k + kTile2 <= count; k += kTile2) go2(k, at_);
    const int64_t left = count - k, tile = left <= kTile2 ? kTile2 : kTile8;
    if (left == 0) return;
    const int places = walk.count + 1 + formula_.numbers + formula_.stored;
    Place at[kMaxPlaces];
    for (int i = 0; i < places; ++i) at[i] = at_[i];
    for (int i = 0; i < walk.count; ++i) {
      if (at[i].p == own_ + i * kPadded) {
        if (at[i].mask && kept_[i] == 0) repeat_last(at[i].p + k, left, tile);
        continue;
      }
      float* to = tail_ + i * kPadded;
      copy_run<S>(to, reinterpret_cast<const char*>(at[i].p + k), 4, left, false);
      repeat_last(to, left, tile);
      at[i].p = to - k;
    }
    float* made = tail_ + walk.count * kPadded;
    at[walk.count].p = made - k;
    if (tile == kTile2)
      go2(k, at);
    else
      go8(k, at);
    copy_run<S>(at_[walk.count].p + k, reinterpret_cast<const char*>(made), 4, left, false);
  }

  static void repeat_last(float* p, int64_t count, int64_t end) {
    const float last = p[count - 1];
    for (; count % S::kLanes; ++count) p[count] = last;
    for (; count < end; count += S::kLanes) S::store(p + count, S::set(last));
  }

  void go8(int64_t k, const Place* at) const {
    const F z = S::set(0.0f);
    reinterpret_cast<typename Chain8<S>::Go>(formula_.steps[0].go8)(formula_.steps, k, at, z, z, z, z, z, z, z, z);
  }
  void go2(int64_t k, const Place* at) const {
    const F z = S::set(0.0f);
    reinterpret_cast<typename Chain2<S>::Go>(formula_.steps[0].go2)(formula_.steps, k, at, z, z);
  }

  const Iteration& walk_;
  const Formula& formula_;
  float *own_, *tail_;
  Place at_[kMaxPlaces];
  int64_t kept_[kMaxOperands + 1];  // rows of a repeating operand that lie in its block
};

}  // namespace expression
}  // namespace rta
