// Calls of a plan with tensors of Python's: taken out of what they are nested in, checked, and run.
#include <algorithm>

#include "bindings/plan.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

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
    const int64_t bytes = outputs_[i].bytes(rows);
    for (size_t j = 0; j < inputs_.size(); ++j)
      if (overlap(p.out[i], bytes, p.in[j], inputs_[j].bytes(rows))) return false;
    for (size_t j = 0; j < i; ++j)
      if (overlap(p.out[i], bytes, p.out[j], outputs_[j].bytes(rows))) return false;
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
  for (const Spec& spec : outputs ? outputs_ : inputs_) bytes.push_back(static_cast<size_t>(spec.bytes(rows)));
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
  const int code = rta_plan_run_some(plan_, p.in, p.out, p.rows, streams);
  if (code == -2) throw nb::value_error(rta_error());
  if (code != 0) raise_refusal();
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

}  // namespace rta_torch
