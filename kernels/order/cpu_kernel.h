// Order on the CPU. The contract is in contract.py.
//
// The first of a line is found in one pass, by vectors where the elements of a line or of several lie side by side
// (first.h); the first few are kept in order while the line passes by, and most elements
// then cost one comparison; more are sorted by merging runs, and many float32 by their digits (radix.h). Nothing
// depends on anything but the elements, so the result is the same everywhere. Floor: a comparison an element.
#pragma once

#include <type_traits>

#include "_common/checks.h"
#include "_common/lines.h"
#include "first.h"
#include "radix.h"

namespace rta {

template <class S>
class OrderStage final : public Stage {
 public:
  explicit OrderStage(const StageSpec& spec) : x_(spec.in(0)) {
    whole_ = spec.input(0).dtype == RTA_INT64;
    if (!whole_ && spec.input(0).dtype != RTA_FLOAT32) fail("order: takes float32 or int64");
    order_ = static_cast<Order>(word(spec.attrs, "order", "down|up|nan_up"));
    n_ = between(spec.attrs, "along", 1, kMaxElements);
    k_ = between(spec.attrs, "k", 1, n_);
    count_ = between(spec.attrs, "count", 0, kMaxElements);
    from_ = read_lines(spec, "0", count_, n_, x_, whole_ ? 8 : 4);
    const int gives = word(spec.attrs, "gives", "values|indices|values,indices");
    const bool values = gives != 1, indices = gives != 0;
    expect_ports(spec, 1, values + indices);
    if (values) expect_dtype(spec.output(0), spec.input(0).dtype, "the values");
    if (indices) expect_dtype(spec.output(values ? 1 : 0), RTA_INT64, "the indices");
    values_ = values ? spec.out(0) : GraphIO{-1, 0, 0, 0};
    indices_ = indices ? spec.out(values ? 1 : 0) : GraphIO{-1, 0, 0, 0};
    if (values) values_to_ = read_lines(spec, "1", count_, k_, values_, whole_ ? 8 : 4);
    if (indices) indices_to_ = read_lines(spec, values ? "2" : "1", count_, k_, indices_, 8);
    spec.need_scratch(static_cast<size_t>(2 * n_) * sizeof(Item<int64_t>));
  }

  void run(const Run& run) const override {
    switch (order_) {
      case Order::kDown: return whole_ ? all<int64_t, Order::kDown>(run) : all<float, Order::kDown>(run);
      case Order::kUp: return whole_ ? all<int64_t, Order::kUp>(run) : all<float, Order::kUp>(run);
      case Order::kNanUp: return whole_ ? all<int64_t, Order::kUp>(run) : all<float, Order::kNanUp>(run);
    }
  }

 private:
  enum class Order { kDown, kUp, kNanUp };  // the largest first, the smallest, a NaN and then the smallest
  static constexpr int64_t kFew = 32, kRun = 8;

  template <class T>
  struct Item {
    T value;
    int64_t index;
  };

  // Whether a comes before b, where b stands later in the line if they are equal: equal ones keep their order.
  template <class T, Order order>
  static bool before(T a, T b) {
    if constexpr (order == Order::kDown) return a > b || (a != a && b == b);
    if constexpr (order == Order::kNanUp) return a < b || (a != a && b == b);
    return a < b || (b != b && a == a);
  }

  template <class T, Order order>
  void all(const Run& run) const {
    Item<T>* items = reinterpret_cast<Item<T>*>(run.scratch);
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      for (int64_t line = 0; line < count_; ++line) {
        if constexpr (std::is_same_v<T, float>)
          if (k_ == 1 && n_ < By<order>::kMost)
            if (const int64_t done = firsts<order>(run, s, x, line)) {
              line += done - 1;
              continue;
            }
        const Item<T>* found = k_ == 1      ? first<T, order>(x, line, items)
                               : k_ <= kFew ? few<T, order>(x, line, items)
                                            : sorted<T, order>(x, line, items);
        for (int64_t i = 0; i < k_; ++i) write(run, s, line, i, found[i].value, found[i].index);
      }
    }
  }

  template <class T>
  void write(const Run& run, int64_t s, int64_t line, int64_t i, T value, int64_t index) const {
    if (values_.exists()) *reinterpret_cast<T*>(values_.row(run, s * values_.steps) + values_to_.at(line, i)) = value;
    if (indices_.exists())
      *reinterpret_cast<int64_t*>(indices_.row(run, s * indices_.steps) + indices_to_.at(line, i)) = index;
  }

  template <Order order>
  using By = FirstByVectors<S, order == Order::kDown>;

  // The first elements of some lines from `line` on, by vectors: how many lines; 0 where it takes a look at each
  // element.
  template <Order order>
  int64_t firsts(const Run& run, int64_t s, const char* x, int64_t line) const {
    if (from_.contiguous && n_ >= S::kLanes) {
      typename By<order>::Best best;
      if (!By<order>::along(reinterpret_cast<const float*>(x + from_.at(line, 0)), n_, best)) return 0;
      write(run, s, line, 0, best.value, best.index);
      return 1;
    }
    if (count_ - line < S::kLanes || from_.beside(line, S::kLanes, 4) < S::kLanes) return 0;
    alignas(64) float values[S::kLanes], indices[S::kLanes];
    const auto at = [&](int64_t i) { return from_.at(line, i); };
    if (!By<order>::across(x, n_, at, values, indices)) return 0;
    for (int lane = 0; lane < S::kLanes; ++lane)
      write(run, s, line + lane, 0, values[lane], static_cast<int64_t>(indices[lane]));
    return S::kLanes;
  }

  template <class T>
  T element(const char* x, int64_t line, int64_t i) const {
    return *reinterpret_cast<const T*>(x + from_.at(line, i));
  }

  template <class T, Order order>
  const Item<T>* first(const char* x, int64_t line, Item<T>* items) const {
    Item<T> best = {element<T>(x, line, 0), 0};
    for (int64_t i = 1; i < n_; ++i) {
      const T value = element<T>(x, line, i);
      if (before<T, order>(value, best.value)) best = {value, i};
    }
    items[0] = best;
    return items;
  }

  template <class T, Order order>
  const Item<T>* few(const char* x, int64_t line, Item<T>* items) const {
    int64_t held = 0;
    for (int64_t i = 0; i < n_; ++i) {
      const T value = element<T>(x, line, i);
      if (held == k_ && !before<T, order>(value, items[held - 1].value)) continue;
      int64_t at = held < k_ ? held++ : held - 1;
      for (; at > 0 && before<T, order>(value, items[at - 1].value); --at) items[at] = items[at - 1];
      items[at] = {value, i};
    }
    return items;
  }

  // The first k of all, by digits. items: room for 2 n of them, of which words take the first half.
  template <Order order>
  const Item<float>* by_digits(const char* x, int64_t line, Item<float>* items) const {
    using Radix = RadixSort<S, order == Order::kDown, order != Order::kUp>;
    uint64_t* words = reinterpret_cast<uint64_t*>(items);
    for (int64_t i = 0; i < n_; ++i) words[i] = Radix::word_of(element<float>(x, line, i), i);
    const uint64_t* found = Radix::sort(words, words + n_, n_);
    Item<float>* to = items + n_;
    for (int64_t i = 0; i < k_; ++i) {
      const int64_t place = Radix::place_of(found[i]);
      to[i] = {element<float>(x, line, place), place};
    }
    return to;
  }

  // Runs of kRun by insertion, then merged in pairs between two buffers.
  template <class T, Order order>
  const Item<T>* sorted(const char* x, int64_t line, Item<T>* items) const {
    if constexpr (std::is_same_v<T, float>)
      if (n_ >= RadixSort<S, false, false>::kLeast && n_ < RadixSort<S, false, false>::kMost)
        return by_digits<order>(x, line, items);
    for (int64_t start = 0; start < n_; start += kRun) {
      const int64_t end = start + kRun < n_ ? start + kRun : n_;
      for (int64_t i = start; i < end; ++i) {
        const T value = element<T>(x, line, i);
        int64_t at = i;
        for (; at > start && before<T, order>(value, items[at - 1].value); --at) items[at] = items[at - 1];
        items[at] = {value, i};
      }
    }
    Item<T>*from = items, *to = items + n_;
    for (int64_t width = kRun; width < n_; width *= 2) {
      for (int64_t start = 0; start < n_; start += 2 * width) {
        const int64_t middle = start + width < n_ ? start + width : n_;
        const int64_t end = start + 2 * width < n_ ? start + 2 * width : n_;
        int64_t a = start, b = middle;
        for (int64_t i = start; i < end; ++i) {
          const bool second = a == middle || (b < end && before<T, order>(from[b].value, from[a].value));
          to[i] = from[second ? b++ : a++];
        }
      }
      Item<T>* swap = from;
      from = to;
      to = swap;
    }
    return from;
  }

  GraphIO x_, values_, indices_;
  bool whole_;
  Order order_;
  int64_t k_, count_, n_;
  LineOperand from_, values_to_, indices_to_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "order", "cpu", nullptr, create_stage<OrderStage<S>>);
}

}  // namespace rta
