// A plan as Python has it: how it is made, its weights exchanged, its states kept. Its calls are in plan_calls.cc.
#include "bindings/plan.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "bindings/attributes.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

constexpr int64_t kMaxProfiled = 100'000;

int checked(int result) {
  if (result < 0) throw std::runtime_error(rta_error());
  return result;
}

}  // namespace

Plan::Plan(size_t weight_bytes) : plan_(rta_plan_create(weight_bytes)) {
  if (!plan_) throw std::runtime_error(rta_error());
}

Plan::~Plan() {
  clear();
  rta_plan_destroy(plan_);
  rta_plan_destroy(beside_);
}

int Plan::value(const std::string& dtype, int64_t steps, int64_t width, const std::string& role) {
  return checked(rta_plan_value(plan_, dtype_of(dtype).core, steps, width,
                                role == "input"    ? RTA_INPUT
                                : role == "output" ? RTA_OUTPUT
                                : role == "state"  ? RTA_STATE
                                                   : RTA_INNER));
}

void Plan::stage(const std::string& op, const std::string& kernel, const std::vector<int>& inputs,
                 const std::vector<int>& outputs, nb::dict given) {
  std::vector<std::string> texts;
  const std::vector<rta_attr> attrs = attributes(given, texts);
  checked(rta_plan_stage(plan_, op.c_str(), kernel.c_str(), inputs.data(), static_cast<int>(inputs.size()),
                         outputs.data(), static_cast<int>(outputs.size()), attrs.data(),
                         static_cast<int>(attrs.size())));
  ++stages_;
}

void Plan::finish(const Ports& inputs, const Ports& outputs, int64_t min_batch, int64_t max_batch,
                  int64_t state_samples, int64_t memory, int threads) {
  for (const auto& [dtype, lead, middle, trailing] : inputs)
    inputs_.push_back({dtype_of(dtype), lead, middle, trailing});
  for (const auto& [dtype, lead, middle, trailing] : outputs)
    outputs_.push_back({dtype_of(dtype), lead, middle, trailing});
  for (const auto* specs : {&inputs_, &outputs_}) {
    if (specs->empty() || specs->size() > kMaxTensors)
      throw std::runtime_error("a plan takes 1 to 128 inputs and outputs");
    for (const Spec& s : *specs)
      if (s.lead + s.trailing.size() > kMaxDims)
        throw std::runtime_error("a tensor of a plan has at most 8 dimensions");
    for (const Spec& s : *specs)
      if (!s.middle.empty() && s.middle.size() + 1 != static_cast<size_t>(s.lead))
        throw std::runtime_error("fixed sizes for some of the leading dimensions");
  }
  flat_in_.signs = "(" + std::string(inputs_.size(), '.') + ")";
  flat_out_.signs = outputs_.size() == 1 ? "." : "(" + std::string(outputs_.size(), '.') + ")";
  form_in_ = flat_in_;
  form_out_ = flat_out_;
  min_batch_ = min_batch;
  max_batch_ = max_batch;
  state_samples_ = state_samples;
  if (threads != 1) checked(rta_plan_threads(plan_, threads));
  checked(rta_plan_finish(plan_, state_samples, memory));
}

// Parts of dicts, whose keys follow one another.
static size_t keys_of(const std::string& signs) {
  size_t count = 0;
  std::string open;
  for (const char sign : signs) {
    const bool ends = sign == ')' || sign == ']' || sign == '}';
    if (ends ? open.empty() : sign != '.' && sign != '(' && sign != '[' && sign != '{')
      throw std::runtime_error("a nesting of other signs");
    if (ends) {
      open.pop_back();
      continue;
    }
    count += !open.empty() && open.back() == '{';
    if (sign != '.') open.push_back(sign);
  }
  if (!open.empty()) throw std::runtime_error("a nesting without its end");
  return count;
}

void Plan::nesting(const std::string& inputs, Keys input_keys, const std::string& outputs, Keys output_keys) {
  const auto dots = [](const std::string& form) { return std::count(form.begin(), form.end(), '.'); };
  if (dots(inputs) != static_cast<int64_t>(inputs_.size()) || dots(outputs) != static_cast<int64_t>(outputs_.size()))
    throw std::runtime_error("a nesting of other tensors");
  if (keys_of(inputs) != input_keys.size() || keys_of(outputs) != output_keys.size())
    throw std::runtime_error("a nesting with other keys");
  form_in_ = {inputs, std::move(input_keys)};
  form_out_ = {outputs, std::move(output_keys)};
}

void Plan::guard(nb::tuple dicts) {
  clear();
  for (nb::handle dict : dicts) {
    if (!PyDict_Check(dict.ptr())) throw nb::type_error("guards are dicts");
    guards_.push_back(dict.inc_ref().ptr());
  }
}

void Plan::raise_looped() {
  nb::module_::import_("rtaccel.realtime.refusals").attr("raise_looped")();
  throw nb::python_error();  // not reached: it raised
}

std::pair<size_t, size_t> Plan::single(int64_t rows) const {
  if (inputs_.size() != 1 || outputs_.size() != 1) return {0, 0};
  return {static_cast<size_t>(inputs_[0].bytes(rows)), static_cast<size_t>(outputs_[0].bytes(rows))};
}

void Plan::adopt(Plan& other) {
  refuse_looped();
  const auto same = [](const std::vector<Spec>& a, const std::vector<Spec>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Spec& p, const Spec& q) {
      return p.dtype.core == q.dtype.core && p.lead == q.lead && p.middle == q.middle && p.trailing == q.trailing;
    });
  };
  if (!same(inputs_, other.inputs_) || !same(outputs_, other.outputs_) || state_samples_ != other.state_samples_)
    throw nb::value_error("a plan of other tensors");
  if (beside_) rta_plan_withdraw(plan_, beside_);
  rta_plan_destroy(beside_);
  beside_ = nullptr;
  std::swap(plan_, other.plan_);
  std::swap(stages_, other.stages_);
}

bool Plan::swap(Plan& other) {
  const bool waited = beside_ && rta_plan_withdraw(plan_, beside_);
  if (!other.plan_ || rta_plan_offer(plan_, other.plan_) != 0) {
    if (waited) rta_plan_offer(plan_, beside_);
    return false;
  }
  rta_plan_destroy(beside_);
  beside_ = other.plan_;
  other.plan_ = nullptr;
  return true;
}

bool Plan::rollback() {
  if (!beside_) return false;
  if (!rta_plan_withdraw(plan_, beside_)) return rta_plan_offer(plan_, beside_) == 0;
  rta_plan_destroy(beside_);  // no call has seen it
  beside_ = nullptr;
  return true;
}

bool Plan::guarded() const {
  for (PyObject* dict : guards_)
    if (PyDict_Size(dict) != 0) return false;
  return true;
}

int Plan::traverse(visitproc visit, void* arg) const {
  for (PyObject* dict : guards_) Py_VISIT(dict);
  return 0;
}

void Plan::clear() {
  std::vector<PyObject*> dropped;
  dropped.swap(guards_);
  for (PyObject* dict : dropped) Py_DECREF(dict);
}

nb::bytes Plan::save_stream(int64_t stream) const {
  refuse_looped();
  std::vector<char> bytes(rta_plan_stream_bytes(plan_));
  if (rta_plan_save_stream(plan_, stream, bytes.data()) != 0) throw nb::index_error(rta_error());
  return nb::bytes(bytes.data(), bytes.size());
}

void Plan::load_stream(int64_t stream, nb::bytes from) {
  refuse_looped();
  if (from.size() != rta_plan_stream_bytes(plan_)) throw nb::value_error("a stream of another plan");
  if (rta_plan_load_stream(plan_, stream, from.data()) != 0) throw nb::value_error(rta_error());
}

nb::object Plan::profile(nb::handle inputs, nb::handle outputs, int64_t calls) const {
  Pointers p;
  if (!fits(inputs, outputs, p)) return nb::none();
  refuse_looped();
  if (calls < 1 || calls > kMaxProfiled) throw nb::value_error("1 to 100000 calls");
  std::vector<int64_t> ticks(static_cast<size_t>(calls * (stages_ + 4)));
  const double ns = rta_plan_profile(plan_, p.in, p.out, p.rows, calls, ticks.data());
  if (ns < 0) throw std::runtime_error(rta_error());
  return nb::make_tuple(nb::bytes(reinterpret_cast<const char*>(ticks.data()), ticks.size() * sizeof(int64_t)), ns);
}

void Plan::reset(int64_t first, int64_t count) {
  refuse_looped();
  if (first < 0 || count < 0 || first > state_samples_ - count) throw nb::index_error("no such samples");
  rta_plan_reset(plan_, first, count);
}

nb::bytes Plan::save_state() const {
  refuse_looped();
  std::vector<char> bytes(rta_plan_state_bytes(plan_));
  rta_plan_save_state(plan_, bytes.data());
  return nb::bytes(bytes.data(), bytes.size());
}

void Plan::load_state(nb::bytes from) {
  refuse_looped();
  if (from.size() != rta_plan_state_bytes(plan_)) throw nb::value_error("the state of another plan");
  if (rta_plan_load_state(plan_, from.data()) != 0) throw nb::value_error(rta_error());
}

int64_t Plan::prefault() {
  const int64_t bytes = rta_plan_prefault(plan_);
  if (bytes < 0) throw std::runtime_error(rta_error());
  return bytes;
}

void Plan::lock() { checked(rta_plan_lock(plan_)); }

}  // namespace rta_torch
