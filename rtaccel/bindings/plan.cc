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

int64_t size_bytes(const Spec& s, int64_t rows) { return rows * s.width() * s.dtype.bytes; }

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto *p = static_cast<const char*>(a), *q = static_cast<const char*>(b);
  return p < q + b_bytes && q < p + a_bytes;
}

// Arguments and results are nested as the model's own: "." is a tensor, "( )" a tuple. Puts the tensors of `object` in
// order; false where it is nested otherwise. `form` is moved past what was read.
bool unnest(PyObject* object, const char*& form, PyObject** tensors, int& count) {
  if (*form == '.') {
    ++form;
    tensors[count++] = object;
    return true;
  }
  if (!PyTuple_CheckExact(object)) return false;
  ++form;
  const Py_ssize_t size = PyTuple_Size(object);
  for (Py_ssize_t i = 0; i < size; ++i)
    if (*form == ')' || !unnest(PyTuple_GetItem(object, i), form, tensors, count)) return false;
  return *form++ == ')';
}

// The same of arguments that lie side by side, without the tuple around them.
bool unnest_given(PyObject* const* items, Py_ssize_t size, const char* form, PyObject** tensors, int& count) {
  ++form;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (*form == ')' || !unnest(items[i], form, tensors, count)) return false;
  return *form == ')';
}

// The other way: takes results in order.
nb::object nest(const char*& form, const nb::object*& results) {
  if (*form++ == '.') return *results++;
  nb::list all;
  while (*form != ')') all.append(nest(form, results));
  ++form;
  return nb::tuple(all);
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
  flat_in_ = "(" + std::string(inputs_.size(), '.') + ")";
  flat_out_ = outputs_.size() == 1 ? "." : "(" + std::string(outputs_.size(), '.') + ")";
  form_in_ = flat_in_;
  form_out_ = flat_out_;
  min_batch_ = min_batch;
  max_batch_ = max_batch;
  state_samples_ = state_samples;
  if (threads != 1) checked(rta_plan_threads(plan_, threads));
  checked(rta_plan_finish(plan_, state_samples, memory));
}

void Plan::nesting(const std::string& inputs, const std::string& outputs) {
  const auto dots = [](const std::string& form) { return std::count(form.begin(), form.end(), '.'); };
  if (dots(inputs) != static_cast<int64_t>(inputs_.size()) || dots(outputs) != static_cast<int64_t>(outputs_.size()))
    throw std::runtime_error("a nesting of other tensors");
  form_in_ = inputs;
  form_out_ = outputs;
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
  return {static_cast<size_t>(size_bytes(inputs_[0], rows)), static_cast<size_t>(size_bytes(outputs_[0], rows))};
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

bool Plan::take_outputs(PyObject* outputs, Pointers& p) const {
  Flat flat;
  const char* form = form_out_.c_str();
  if (outputs_.size() == 1 && PyTuple_CheckExact(outputs) && PyTuple_Size(outputs) == 1)
    flat.tensors[0] = PyTuple_GetItem(outputs, 0);  // one result may come as a tuple of one
  else if (!unnest(outputs, form, flat.tensors, flat.count))
    return false;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    dlpack::Tensor t;
    int64_t rows;
    if (!view(flat.tensors[i], outputs_[i], t, rows) || rows != p.rows) return false;
    for (int d = 0; d < std::min(outputs_[i].lead, inputs_[0].lead); ++d)
      if (t.shape[d] != p.lead[d]) return false;
    p.out[i] = t.data;
    const int64_t bytes = size_bytes(outputs_[i], rows);
    for (size_t j = 0; j < inputs_.size(); ++j)
      if (overlap(p.out[i], bytes, p.in[j], size_bytes(inputs_[j], rows))) return false;
    for (size_t j = 0; j < i; ++j)
      if (overlap(p.out[i], bytes, p.out[j], size_bytes(outputs_[j], rows))) return false;
  }
  return true;
}

// All inputs agree in their leading dimensions; those of the first are given back in `lead`.
bool Plan::take_inputs(const Flat& flat, Pointers& p, bool some) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    dlpack::Tensor t;
    int64_t rows;
    if (!view(flat.tensors[i], inputs_[i], t, rows)) return false;
    p.in[i] = t.data;
    if (i == 0) {
      p.rows = rows;
      for (int d = 0; d < inputs_[0].lead; ++d) p.lead[d] = t.shape[d];
    } else if (rows != p.rows) {
      return false;
    } else {
      for (int d = 0; d < std::min(inputs_[i].lead, inputs_[0].lead); ++d)
        if (t.shape[d] != p.lead[d]) return false;
    }
  }
  if (inputs_[0].lead > 0 && (p.lead[0] < min_batch_ || (max_batch_ >= 0 && p.lead[0] > max_batch_))) return false;
  return state_samples_ == 0 || some || p.rows == state_samples_;
}

bool Plan::fits(nb::handle inputs, nb::handle outputs, Pointers& p) const {
  Flat flat;
  const char* form = form_in_.c_str();
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) && take_inputs(flat, p) && take_outputs(outputs.ptr(), p);
}

bool Plan::fits_inputs(nb::handle inputs, Pointers& p) const {
  Flat flat;
  const char* form = flat_in_.c_str();
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) && take_inputs(flat, p);
}

std::vector<size_t> Plan::sizes(bool outputs, int64_t rows) const {
  std::vector<size_t> bytes;
  for (const Spec& spec : outputs ? outputs_ : inputs_) bytes.push_back(static_cast<size_t>(size_bytes(spec, rows)));
  return bytes;
}

bool Plan::run(nb::handle inputs, nb::handle outputs) const {
  Pointers p;
  if (!fits(inputs, outputs, p)) return false;
  run_bound(p);
  return true;
}

bool Plan::run_given(PyObject* const* inputs, Py_ssize_t count, PyObject* outputs) const {
  Flat flat;
  Pointers p;
  if (!unnest_given(inputs, count, form_in_.c_str(), flat.tensors, flat.count) || !take_inputs(flat, p) ||
      !take_outputs(outputs, p))
    return false;
  run_bound(p);
  return true;
}

nb::object Plan::compute(const Flat& inputs, const std::string& form_out) const {
  Pointers p;
  if (!take_inputs(inputs, p)) return nb::none();
  nb::object few[4];
  std::vector<nb::object> many(outputs_.size() > 4 ? outputs_.size() : 0);
  nb::object* results = many.empty() ? few : many.data();
  for (size_t i = 0; i < outputs_.size(); ++i) results[i] = fresh(outputs_[i], p.lead, p.out[i]);
  run_bound(p);
  const char* form = form_out.c_str();
  const nb::object* next = results;
  return nest(form, next);
}

nb::object Plan::call(nb::handle inputs) const {
  Flat flat;
  const char* form = form_in_.c_str();
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) ? compute(flat, form_out_) : nb::none();
}

nb::object Plan::call_given(PyObject* const* inputs, Py_ssize_t count) const {
  Flat flat;
  return unnest_given(inputs, count, form_in_.c_str(), flat.tensors, flat.count) ? compute(flat, form_out_)
                                                                                 : nb::none();
}

nb::object Plan::call_flat(nb::handle inputs) const {
  Flat flat;
  const char* form = flat_in_.c_str();
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) ? compute(flat, flat_out_) : nb::none();
}

bool Plan::take_list(nb::handle list, const Pointers& p, const int64_t*& streams) const {
  static const Spec kList{dtype_of("int64"), 1, {}, {}};
  dlpack::Tensor t;
  int64_t count;
  if (!view(list.ptr(), kList, t, count) || count != p.rows) return false;
  streams = static_cast<const int64_t*>(t.data);
  return true;
}

void Plan::run_list(const Pointers& p, const int64_t* streams) const {
  refuse_looped();
  if (rta_plan_run_some(plan_, p.in, p.out, p.rows, streams) != 0) throw nb::value_error(rta_error());
}

bool Plan::run_some(nb::handle inputs, nb::handle outputs, nb::handle list) const {
  Flat flat;
  Pointers p;
  const int64_t* streams;
  const char* form = form_in_.c_str();
  if (!unnest(inputs.ptr(), form, flat.tensors, flat.count) || !take_inputs(flat, p, true) ||
      !take_outputs(outputs.ptr(), p) || !take_list(list, p, streams))
    return false;
  run_list(p, streams);
  return true;
}

nb::object Plan::call_some(nb::handle inputs, nb::handle list) const {
  Flat flat;
  Pointers p;
  const int64_t* streams;
  const char* form = form_in_.c_str();
  if (!unnest(inputs.ptr(), form, flat.tensors, flat.count) || !take_inputs(flat, p, true) ||
      !take_list(list, p, streams))
    return nb::none();
  std::vector<nb::object> results(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) results[i] = fresh(outputs_[i], p.lead, p.out[i]);
  run_list(p, streams);
  const char* out = form_out_.c_str();
  const nb::object* next = results.data();
  return nest(out, next);
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
