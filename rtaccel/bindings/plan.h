// A plan of the native core, called on torch tensors.
//
// A call checks its tensors here, in some 20 ns each, and reports anything out of the ordinary by returning None or
// False: Python then names the mistake in a typed error, or makes a contiguous copy and calls again. So the usual
// call pays for no Python-level check, and the unusual one gets a full explanation.
#pragma once

#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/tensor.h"

namespace rta_torch {

struct Pointers {
  const void* in[kMaxTensors];
  void* out[kMaxTensors];
  int64_t rows;
  int64_t lead[kMaxDims];  // of the first input
};

class Plan {
 public:
  using Ports = std::vector<std::tuple<std::string, int, std::vector<int64_t>, std::vector<int64_t>>>;

  explicit Plan(size_t weight_bytes);
  ~Plan();
  Plan(const Plan&) = delete;

  // Building, once.
  int value(const std::string& dtype, int64_t steps, int64_t width, const std::string& role);
  void stage(const std::string& op, const std::string& kernel, const std::vector<int>& inputs,
             const std::vector<int>& outputs, nanobind::dict attrs);
  // min_batch, max_batch: sizes of the first dimension that a call may have; max_batch -1 for no limit.
  void finish(const Ports& inputs, const Ports& outputs, int64_t min_batch, int64_t max_batch, int64_t state_samples,
              int64_t memory, int threads);
  // How the arguments of call, run and bind are nested, and their results: "." a tensor, "( )" a tuple, "[ ]" a list,
  // "{ }" a dict, whose keys follow in a list for all dicts, in the order of their parts.
  using Keys = std::vector<nanobind::object>;
  void nesting(const std::string& inputs, Keys input_keys, const std::string& outputs, Keys output_keys);
  // Takes the place of its stages, weights and states from another plan of the same tensors, which is left with the old
  // ones: whoever holds this plan, a bound call too, goes on with the new ones.
  void adopt(Plan& other);
  // Takes the weights of another plan, which is left empty, and exchanges them when the next call begins; states go on.
  // Another thread may be in a call. False where it has other values or stages: then nothing is changed.
  bool swap(Plan& other);
  // The weights before the last swap, in the same way; false where there are none.
  bool rollback();
  bool pending() const { return rta_plan_pending(plan_) != 0; }
  // Dicts that must be empty for a call from an entry: where hooks of a module are kept.
  void guard(nanobind::tuple dicts);
  bool guarded() const;
  int traverse(visitproc visit, void* arg) const;
  void clear();

  // Whether the tensors can be read and written where they lie.
  bool fits(nanobind::handle inputs, nanobind::handle outputs, Pointers& p) const;

  // Those that fit, one after the other, each with what holds its memory.
  nanobind::tuple tensors(nanobind::handle inputs, nanobind::handle outputs) const;

  // The same of a tuple of inputs alone, without the nesting of the model's arguments.
  bool fits_inputs(nanobind::handle inputs, Pointers& p) const;
  // Bytes of each input, or output, for so many rows.
  std::vector<size_t> sizes(bool outputs, int64_t rows) const;

  // Writes into `outputs` (a tensor or a tuple). False: nothing was written, the tensors need a closer look.
  bool run(nanobind::handle inputs, nanobind::handle outputs) const;
  bool run_given(PyObject* const* inputs, Py_ssize_t count, PyObject* outputs) const;

  // One step of some streams: `list` is an int64 tensor of their numbers, inputs and outputs have a row for each.
  // Raises ValueError for a stream that there is not, or twice. call_some gives None, run_some False, where tensors do
  // not fit.
  nanobind::object call_some(nanobind::handle inputs, nanobind::handle list) const;
  bool run_some(nanobind::handle inputs, nanobind::handle outputs, nanobind::handle list) const;
  nanobind::bytes save_stream(int64_t stream) const;
  void load_stream(int64_t stream, nanobind::bytes from);

  // A fresh tensor, or a tuple of them. None: the tensors need a closer look.
  nanobind::object call(nanobind::handle inputs) const;
  nanobind::object call_given(PyObject* const* inputs, Py_ssize_t count) const;
  nanobind::object call_flat(nanobind::handle inputs) const;

  // The GIL is held: two Python threads cannot be in one plan, and the plan's own threads need no GIL.
  void run_bound(const Pointers& p) const {
    refuse_looped();
    if (rta_plan_run(plan_, p.in, p.out, p.rows) != 0) raise_refusal();
  }

  // (rows of int64 as rta_plan_profile writes them, ns per count). None: the tensors need a closer look.
  nanobind::object profile(nanobind::handle inputs, nanobind::handle outputs, int64_t calls) const;

  void reset(int64_t first, int64_t count);
  nanobind::bytes save_state() const;
  void load_state(nanobind::bytes from);
  int64_t prefault();
  void lock();
  int parts(int stage, int64_t samples) const { return rta_plan_parts(plan_, stage, samples); }
  int running_threads() const { return rta_plan_running_threads(plan_); }
  size_t state_bytes() const { return state_samples_ == 0 ? 0 : rta_plan_state_bytes(plan_); }
  size_t packed_bytes() const { return rta_plan_packed_bytes(plan_); }
  size_t scratch_bytes() const { return rta_plan_scratch_bytes(plan_); }

  // While a loop runs the plan on its own thread, other calls are refused: a plan has one scratch and one past.
  std::atomic<bool> looped{false};
  void refuse_looped() const {
    if (looped.load(std::memory_order_relaxed)) raise_looped();
  }
  rta_plan* core() const { return plan_; }
  int64_t state_samples() const { return state_samples_; }
  // Bytes of the first input and output for so many rows; 0 where there are several.
  std::pair<size_t, size_t> single(int64_t rows) const;

 private:
  struct Tree {
    std::string signs;
    Keys keys;
  };
  // Tensors in the order of the plan, out of how they are nested.
  struct Flat {
    PyObject* tensors[kMaxTensors];
    int count = 0;
  };

  [[noreturn]] static void raise_looped();
  bool take_inputs(const Flat& flat, Pointers& p, bool some = false) const;
  bool take_list(nanobind::handle list, const Pointers& p, const int64_t*& streams) const;
  void run_list(const Pointers& p, const int64_t* streams) const;
  bool take_outputs(PyObject* outputs, Pointers& p) const;
  nanobind::object compute(const Flat& inputs, const Tree& form_out) const;

  rta_plan* plan_;
  rta_plan* beside_ = nullptr;  // offered, or what was there before the last swap
  std::vector<Spec> inputs_, outputs_;
  Tree flat_in_, flat_out_, form_in_, form_out_;
  std::vector<PyObject*> guards_;
  int64_t min_batch_ = 0, max_batch_ = -1, state_samples_ = 0, stages_ = 0;
};

// What Python sees of it.
void add_plan(nanobind::module_& m);

}  // namespace rta_torch
