// A cascade over the plans of compiled models, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/plan.h"
#include "rta_cascade.h"

namespace rta_torch {

class Cascade {
 public:
  // heads: none, or one for each plan. exits: (test, below, threshold, index, function or None) for each plan, the last
  // one's not looked at. advance: whether a plan with states makes a step for rows that have left.
  Cascade(nanobind::list plans, nanobind::list heads, nanobind::list exits, const std::vector<bool>& advance);
  Cascade(const Cascade&) = delete;

  // Whether the tensors can be read and written where they lie. features: a tensor of the first plan's output, with
  // heads.
  bool fits(nanobind::handle x, nanobind::handle out, nanobind::handle features, Pointers& p) const;
  void reserve(int64_t rows);
  void run(const void* in, void* out, int64_t rows, bool through);
  bool run_tensors(nanobind::handle x, nanobind::handle out, nanobind::handle features, bool through);
  // `calls` runs one after another, of neighboring rows that lie behind those of x and out: (ns of each as bytes of
  // int64, exits of each row as bytes of int32). None: the tensors do not fit.
  nanobind::object profile(nanobind::handle x, nanobind::handle out, nanobind::handle features, int64_t calls,
                           bool through);

  void set_threshold(int stage, float threshold);
  // cost_ns: of each stage, for runs of so many rows.
  void deadline(int64_t deadline_ns, const std::vector<int64_t>& cost_ns, int64_t rows);
  int64_t late() const { return rta_cascade_late(get()); }
  int exit_of_row(int64_t row) const { return rta_cascade_exits(get())[row]; }
  nanobind::bytes exits() const;
  std::vector<int64_t> counts() const;
  int64_t rows() const { return rows_; }
  nanobind::bytes save_state() const;
  void load_state(nanobind::bytes from);
  void reset();

  rta_cascade* get() const { return cascade_.get(); }
  const std::vector<Plan*>& all() const { return all_; }
  // Puts the plans in place that the models have now, and the costs of so many rows.
  void refresh(int64_t rows);
  // As a step of a loop, which needs no Python. The plans are looked up at each run: weights may have been loaded.
  rta_step loop_step(int64_t rows);

 private:
  struct Test {
    Cascade* owner;
    nanobind::object function;
  };
  static int call_test(void* self, const float* y, int64_t width, float* score);
  void refuse_looped() const;

  nanobind::object kept_;
  std::vector<Plan*> plans_, heads_, all_;
  std::vector<std::unique_ptr<Test>> tests_;
  std::unique_ptr<rta_cascade, void (*)(rta_cascade*)> cascade_;
  std::vector<std::pair<int64_t, std::vector<int64_t>>> costs_;  // by rows
  std::exception_ptr raised_;
  int64_t deadline_ns_ = 0, rows_ = 0, loop_rows_ = 0, in_bytes_ = 0, width_ = 0;
};

void add_cascade(nanobind::module_& m);

}  // namespace rta_torch
