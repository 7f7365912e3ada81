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

// Reads a form from its begin: signs, and the keys of dicts.
struct Reader {
  const char* sign;
  const nb::object* key;
  template <class Tree>
  explicit Reader(const Tree& form) : sign(form.signs.c_str()), key(form.keys.data()) {}
};

// Arguments and results are nested as the model's own. Puts the tensors of `object` in order; false where it is nested
// otherwise. The form is moved past what was read.
bool unnest(PyObject* object, Reader& form, PyObject** tensors, int& count) {
  const char kind = *form.sign++;
  if (kind == '.') {
    tensors[count++] = object;
    return true;
  }
  Py_ssize_t size, i = 0;
  if (kind == '{') {
    if (!PyDict_CheckExact(object)) return false;
    size = PyDict_Size(object);
    for (; *form.sign != '}'; ++i) {
      PyObject* part = PyDict_GetItemWithError(object, (form.key++)->ptr());
      if (!part) PyErr_Clear();
      if (!part || !unnest(part, form, tensors, count)) return false;
    }
  } else if (kind == '[') {
    if (!PyList_CheckExact(object)) return false;
    size = PyList_Size(object);
    for (; i < size; ++i)
      if (*form.sign == ']' || !unnest(PyList_GetItem(object, i), form, tensors, count)) return false;
  } else {
    if (!PyTuple_CheckExact(object)) return false;
    size = PyTuple_Size(object);
    for (; i < size; ++i)
      if (*form.sign == ')' || !unnest(PyTuple_GetItem(object, i), form, tensors, count)) return false;
  }
  const char end = *form.sign++;
  return i == size && (end == ')' || end == ']' || end == '}');
}

// The same of arguments that lie side by side, without the tuple around them.
bool unnest_given(PyObject* const* items, Py_ssize_t size, Reader form, PyObject** tensors, int& count) {
  ++form.sign;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (*form.sign == ')' || !unnest(items[i], form, tensors, count)) return false;
  return *form.sign == ')';
}

// The other way: takes results in order.
nb::object nest(Reader& form, const nb::object*& results) {
  const char kind = *form.sign++;
  if (kind == '.') return *results++;
  nb::object made;
  if (kind == '{') {
    nb::dict all;
    while (*form.sign != '}') {
      const nb::object& key = *form.key++;
      all[key] = nest(form, results);
    }
    made = all;
  } else {
    nb::list all;
    while (*form.sign != ')' && *form.sign != ']') all.append(nest(form, results));
    made = kind == '[' ? nb::object(all) : nb::object(nb::tuple(all));
  }
  ++form.sign;
  return made;
}

}  // namespace

bool Plan::take_outputs(PyObject* outputs, Pointers& p) const {
  Flat flat;
  Reader form(form_out_);
  if (outputs_.size() == 1 && form_out_.keys.empty() && PyTuple_CheckExact(outputs) && PyTuple_Size(outputs) == 1)
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
  Reader form(form_in_);
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) && take_inputs(flat, p) && take_outputs(outputs.ptr(), p);
}

nb::tuple Plan::tensors(nb::handle inputs, nb::handle outputs) const {
  Flat in, out;
  Reader given(form_in_), made(form_out_);
  unnest(inputs.ptr(), given, in.tensors, in.count);
  if (!unnest(outputs.ptr(), made, out.tensors, out.count)) {
    out.tensors[0] = PyTuple_GetItem(outputs.ptr(), 0);  // one result in a tuple of one
    out.count = 1;
  }
  nb::list all;
  for (const Flat* flat : {&in, &out})
    for (int i = 0; i < flat->count; ++i) {
      all.append(nb::borrow(flat->tensors[i]));
      all.append(held(flat->tensors[i]));
    }
  return nb::tuple(all);
}

bool Plan::fits_inputs(nb::handle inputs, Pointers& p) const {
  Flat flat;
  Reader form(flat_in_);
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
  if (!unnest_given(inputs, count, Reader(form_in_), flat.tensors, flat.count) || !take_inputs(flat, p) ||
      !take_outputs(outputs, p))
    return false;
  run_bound(p);
  return true;
}

nb::object Plan::compute(const Flat& inputs, const Tree& form_out) const {
  Pointers p;
  if (!take_inputs(inputs, p)) return nb::none();
  nb::object few[4];
  std::vector<nb::object> many(outputs_.size() > 4 ? outputs_.size() : 0);
  nb::object* results = many.empty() ? few : many.data();
  for (size_t i = 0; i < outputs_.size(); ++i) results[i] = fresh(outputs_[i], p.lead, p.out[i]);
  run_bound(p);
  Reader form(form_out);
  const nb::object* next = results;
  return nest(form, next);
}

nb::object Plan::call(nb::handle inputs) const {
  Flat flat;
  Reader form(form_in_);
  return unnest(inputs.ptr(), form, flat.tensors, flat.count) ? compute(flat, form_out_) : nb::none();
}

nb::object Plan::call_given(PyObject* const* inputs, Py_ssize_t count) const {
  Flat flat;
  return unnest_given(inputs, count, Reader(form_in_), flat.tensors, flat.count) ? compute(flat, form_out_)
                                                                                 : nb::none();
}

nb::object Plan::call_flat(nb::handle inputs) const {
  Flat flat;
  Reader form(flat_in_);
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
  Reader form(form_in_);
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
  Reader form(form_in_);
  if (!unnest(inputs.ptr(), form, flat.tensors, flat.count) || !take_inputs(flat, p, true) ||
      !take_list(list, p, streams))
    return nb::none();
  std::vector<nb::object> results(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) results[i] = fresh(outputs_[i], p.lead, p.out[i]);
  run_list(p, streams);
  Reader out(form_out_);
  const nb::object* next = results.data();
  return nest(out, next);
}

}  // namespace rta_torch
