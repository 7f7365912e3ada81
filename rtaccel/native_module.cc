// The nanobind module over the C ABI: builds plans from Python, and calls them on torch tensors.
//
// A call checks its tensors here, in some 20 ns each, and reports anything out of the ordinary by returning None or
// False: Python then names the mistake in a typed error, or makes a contiguous copy and calls again. So the usual
// call pays for no Python-level check, and the unusual one gets a full explanation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <time.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "dlpack_exchange.h"
#include "native_timer.h"
#include "rta_mailbox.h"
#include "rtaccel.h"

namespace nb = nanobind;

namespace {

// torch, as far as this module knows it. Set once by `connect`.
const dlpack::ExchangeApi* exchange = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject *is_neg = nullptr, *refuse = nullptr;

void connect(nb::handle tensor, nb::handle parameter, nb::handle refusal) {
  nb::object capsule = tensor.attr("__dlpack_c_exchange_api__");
  auto* api = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw nb::python_error();
  const dlpack::ExchangeHeader* header = &api->header;
  while (header && header->major != dlpack::kMajor) header = header->previous;
  if (!header) throw std::runtime_error("torch offers no DLPack exchange interface of major version 1");
  exchange = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  is_neg = nb::object(tensor.attr("is_neg")).release().ptr();
  refuse = refusal.inc_ref().ptr();
}

// A stage refused the numbers of a call: raises the typed error that Python makes of the reason.
[[noreturn]] void raise_refusal() {
  PyObject* error = PyObject_CallFunction(refuse, "s", rta_error());
  if (error) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
  Py_XDECREF(error);
  throw nb::python_error();
}

// A dtype as torch names it, as the core and as DLPack do, and its size.
struct Dtype {
  const char* name;
  rta_dtype core;
  uint8_t code;
  int bytes;
};
constexpr Dtype kDtypes[] = {
    {"float32", RTA_FLOAT32, dlpack::kFloat, 4}, {"int8", RTA_INT8, dlpack::kInt, 1},
    {"int64", RTA_INT64, dlpack::kInt, 8},       {"int32", RTA_INT32, dlpack::kInt, 4},
    {"uint8", RTA_UINT8, dlpack::kUnsigned, 1},  {"bfloat16", RTA_BFLOAT16, dlpack::kBfloat, 2},
};
const Dtype& dtype_of(const std::string& name) {
  for (const Dtype& d : kDtypes)
    if (name == d.name) return d;
  throw std::runtime_error("the native core has no dtype " + name);
}

// A tensor of a plan: `lead` leading dimensions are rows, the trailing ones are fixed.
struct Spec {
  Dtype dtype;
  int lead;
  std::vector<int64_t> trailing;
  int64_t width() const {
    int64_t product = 1;
    for (int64_t d : trailing) product *= d;
    return product;
  }
};

constexpr int kMaxDims = 8, kMaxTensors = 16;
constexpr int64_t kMaxProfiled = 100'000;

// Whether the numbers in memory stand for their negatives: the exchange interface does not tell. torch makes such
// tensors as the imaginary part of a conjugate, a view with stride 2 that is refused for that already, unless it has a
// single element. So one element is the only case to ask for (70 ns). Anything but a plain False counts as yes.
bool may_be_negated(PyObject* object) {
  PyObject* answer = PyObject_Vectorcall(is_neg, &object, 1, nullptr);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);  // True and False outlive it
  return answer != Py_False;
}

// Pointer and rows of a tensor that fits the spec as it is; false for anything else.
bool view(PyObject* object, const Spec& spec, dlpack::Tensor& t, int64_t& rows) {
  PyTypeObject* type = Py_TYPE(object);
  if (type != tensor_type && type != parameter_type) return false;
  if (exchange->view_from_object(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  const int trailing = static_cast<int>(spec.trailing.size());
  if (t.ndim != spec.lead + trailing || t.device.type != dlpack::kCpu || t.dtype.code != spec.dtype.code ||
      t.dtype.bits != 8 * spec.dtype.bytes || t.dtype.lanes != 1)
    return false;
  int64_t expected = 1;
  bool dense = true;
  rows = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    const int64_t size = t.shape[d];
    if (d >= spec.lead && size != spec.trailing[d - spec.lead]) return false;
    if (d < spec.lead) rows *= size;
    // The stride of a dimension of size 1 is never used and may be anything.
    dense &= !t.strides || size == 1 || t.strides[d] == expected;
    expected *= size;
  }
  if (expected != 0 && !t.data) return false;  // storage that was freed, or a wrapper that holds none
  if (expected == 1 && may_be_negated(object)) return false;
  if (!dense && expected != 0) return false;  // an empty tensor has no element that could lie elsewhere
  t.data = static_cast<char*>(t.data) + t.byte_offset;
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<size_t>(spec.dtype.bytes) == 0;
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto *p = static_cast<const char*>(a), *q = static_cast<const char*>(b);
  return p < q + b_bytes && q < p + a_bytes;
}

struct Pointers {
  const void* in[kMaxTensors];
  void* out[kMaxTensors];
  int64_t rows;
};

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

// The other way: takes results in order.
nb::object nest(const char*& form, const nb::object*& results) {
  if (*form++ == '.') return *results++;
  nb::list all;
  while (*form != ')') all.append(nest(form, results));
  ++form;
  return nb::tuple(all);
}

class Plan {
 public:
  explicit Plan(size_t weight_bytes) : plan_(rta_plan_create(weight_bytes)) {
    if (!plan_) throw std::runtime_error(rta_error());
  }
  ~Plan() { rta_plan_destroy(plan_); }
  Plan(const Plan&) = delete;

  int value(const std::string& dtype, int64_t steps, int64_t width, const std::string& role) {
    return checked(rta_plan_value(plan_, dtype_of(dtype).core, steps, width,
                                  role == "input"    ? RTA_INPUT
                                  : role == "output" ? RTA_OUTPUT
                                  : role == "state"  ? RTA_STATE
                                                     : RTA_INNER));
  }

  void stage(const std::string& op, const std::string& kernel, const std::vector<int>& inputs,
             const std::vector<int>& outputs, nb::dict attrs);

  void finish(const std::vector<std::tuple<std::string, int, std::vector<int64_t>>>& inputs,
              const std::vector<std::tuple<std::string, int, std::vector<int64_t>>>& outputs, int64_t max_samples,
              int64_t state_samples, int64_t memory, int threads) {
    for (const auto& [dtype, lead, trailing] : inputs) inputs_.push_back({dtype_of(dtype), lead, trailing});
    for (const auto& [dtype, lead, trailing] : outputs) outputs_.push_back({dtype_of(dtype), lead, trailing});
    for (const auto* specs : {&inputs_, &outputs_}) {
      if (specs->empty() || specs->size() > kMaxTensors)
        throw std::runtime_error("a plan takes 1 to 16 inputs and outputs");
      for (const Spec& s : *specs)
        if (s.lead + s.trailing.size() > kMaxDims)
          throw std::runtime_error("a tensor of a plan has at most 8 dimensions");
    }
    flat_in_ = "(" + std::string(inputs_.size(), '.') + ")";
    flat_out_ = outputs_.size() == 1 ? "." : "(" + std::string(outputs_.size(), '.') + ")";
    form_in_ = flat_in_;
    form_out_ = flat_out_;
    max_samples_ = max_samples;
    state_samples_ = state_samples;
    if (threads != 1) checked(rta_plan_threads(plan_, threads));
    checked(rta_plan_finish(plan_, state_samples, memory));
  }

  // How the arguments of call, run and bind are nested, and their results.
  void nesting(const std::string& inputs, const std::string& outputs) {
    const auto dots = [](const std::string& form) { return std::count(form.begin(), form.end(), '.'); };
    if (dots(inputs) != static_cast<int64_t>(inputs_.size()) || dots(outputs) != static_cast<int64_t>(outputs_.size()))
      throw std::runtime_error("a nesting of other tensors");
    form_in_ = inputs;
    form_out_ = outputs;
  }

  bool fits(nb::handle inputs, nb::handle outputs, Pointers& p) const {
    dlpack::Tensor t;
    if (!take_inputs(inputs.ptr(), form_in_, p, nullptr)) return false;
    PyObject* outs[kMaxTensors];
    int count = 0;
    const char* form = form_out_.c_str();
    if (outputs_.size() == 1 && PyTuple_CheckExact(outputs.ptr()) && PyTuple_Size(outputs.ptr()) == 1)
      outs[0] = PyTuple_GetItem(outputs.ptr(), 0);  // one result may come as a tuple of one
    else if (!unnest(outputs.ptr(), form, outs, count))
      return false;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      int64_t rows;
      if (!view(outs[i], outputs_[i], t, rows) || rows != p.rows) return false;
      p.out[i] = t.data;
      const int64_t bytes = size_bytes(outputs_[i], rows);
      for (size_t j = 0; j < inputs_.size(); ++j)
        if (overlap(p.out[i], bytes, p.in[j], size_bytes(inputs_[j], rows))) return false;
      for (size_t j = 0; j < i; ++j)
        if (overlap(p.out[i], bytes, p.out[j], size_bytes(outputs_[j], rows))) return false;
    }
    return true;
  }

  // Writes into `outputs` (a tensor or a tuple). False: nothing was written, the tensors need a closer look.
  bool run(nb::handle inputs, nb::handle outputs) const {
    Pointers p;
    if (!fits(inputs, outputs, p)) return false;
    run_bound(p);
    return true;
  }

  // A fresh tensor, or a tuple of them. None: the tensors need a closer look.
  nb::object call(nb::handle inputs) const { return compute(inputs, form_in_, form_out_); }
  nb::object call_flat(nb::handle inputs) const { return compute(inputs, flat_in_, flat_out_); }

  nb::object compute(nb::handle inputs, const std::string& form_in, const std::string& form_out) const {
    Pointers p;
    int64_t lead[kMaxDims];
    if (!take_inputs(inputs.ptr(), form_in, p, lead)) return nb::none();
    nb::object results[kMaxTensors];
    for (size_t i = 0; i < outputs_.size(); ++i) {
      results[i] = empty(outputs_[i], lead);
      dlpack::Tensor t;
      int64_t rows;
      if (!view(results[i].ptr(), outputs_[i], t, rows)) return nb::none();
      p.out[i] = t.data;
    }
    run_bound(p);
    const char* form = form_out.c_str();
    const nb::object* next = results;
    return nest(form, next);
  }

  // The GIL is held: two Python threads cannot be in one plan, and the plan's own threads need no GIL.
  void run_bound(const Pointers& p) const {
    if (rta_plan_run(plan_, p.in, p.out, p.rows) != 0) raise_refusal();
  }

  // (rows of int64 as rta_plan_profile writes them, ns per count). None: the tensors need a closer look.
  nb::object profile(nb::handle inputs, nb::handle outputs, int64_t calls) const {
    Pointers p;
    if (!fits(inputs, outputs, p)) return nb::none();
    if (calls < 1 || calls > kMaxProfiled) throw nb::value_error("1 to 100000 calls");
    std::vector<int64_t> ticks(static_cast<size_t>(calls * (stages_ + 4)));
    const double ns = rta_plan_profile(plan_, p.in, p.out, p.rows, calls, ticks.data());
    if (ns < 0) throw std::runtime_error(rta_error());
    return nb::make_tuple(nb::bytes(reinterpret_cast<const char*>(ticks.data()), ticks.size() * sizeof(int64_t)), ns);
  }

  void reset(int64_t first, int64_t count) {
    if (first < 0 || count < 0 || first > state_samples_ - count) throw nb::index_error("no such samples");
    rta_plan_reset(plan_, first, count);
  }
  nb::bytes save_state() const {
    std::vector<char> bytes(rta_plan_state_bytes(plan_));
    rta_plan_save_state(plan_, bytes.data());
    return nb::bytes(bytes.data(), bytes.size());
  }
  void load_state(nb::bytes from) {
    if (from.size() != rta_plan_state_bytes(plan_)) throw nb::value_error("the state of another plan");
    rta_plan_load_state(plan_, from.data());
  }
  int64_t prefault() {
    const int64_t bytes = rta_plan_prefault(plan_);
    if (bytes < 0) throw std::runtime_error(rta_error());
    return bytes;
  }
  void lock() { checked(rta_plan_lock(plan_)); }
  int parts(int stage, int64_t samples) const { return rta_plan_parts(plan_, stage, samples); }
  int running_threads() const { return rta_plan_running_threads(plan_); }
  size_t state_bytes() const { return state_samples_ == 0 ? 0 : rta_plan_state_bytes(plan_); }
  size_t packed_bytes() const { return rta_plan_packed_bytes(plan_); }
  size_t scratch_bytes() const { return rta_plan_scratch_bytes(plan_); }

 private:
  static int checked(int result) {
    if (result < 0) throw std::runtime_error(rta_error());
    return result;
  }
  static int64_t size_bytes(const Spec& s, int64_t rows) { return rows * s.width() * s.dtype.bytes; }

  // All inputs agree in their leading dimensions; those of the first are given back in `lead`.
  bool take_inputs(PyObject* inputs, const std::string& nesting, Pointers& p, int64_t* lead) const {
    PyObject* tensors[kMaxTensors];
    int count = 0;
    const char* form = nesting.c_str();
    if (!unnest(inputs, form, tensors, count)) return false;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      dlpack::Tensor t;
      int64_t rows;
      if (!view(tensors[i], inputs_[i], t, rows)) return false;
      p.in[i] = t.data;
      if (i == 0) {
        p.rows = rows;
        if (lead)
          for (int d = 0; d < inputs_[0].lead; ++d) lead[d] = t.shape[d];
      } else if (rows != p.rows) {
        return false;
      }
    }
    return (max_samples_ <= 0 || p.rows <= max_samples_) && (state_samples_ == 0 || p.rows == state_samples_);
  }

  static nb::object empty(const Spec& spec, const int64_t* lead) {
    int64_t shape[kMaxDims];
    const int dims = spec.lead + static_cast<int>(spec.trailing.size());
    for (int d = 0; d < dims; ++d) shape[d] = d < spec.lead ? lead[d] : spec.trailing[d - spec.lead];
    dlpack::Tensor prototype{
        nullptr, {dlpack::kCpu, 0}, dims, {spec.dtype.code, static_cast<uint8_t>(8 * spec.dtype.bytes), 1},
        shape,   nullptr,           0};
    void *managed = nullptr, *object = nullptr;
    const auto report = [](void*, const char*, const char* message) { PyErr_SetString(PyExc_MemoryError, message); };
    if (exchange->allocate(&prototype, &managed, nullptr, report) != 0 || exchange->to_object(managed, &object) != 0)
      throw nb::python_error();
    return nb::steal(static_cast<PyObject*>(object));
  }

  rta_plan* plan_;
  std::vector<Spec> inputs_, outputs_;
  std::string flat_in_, flat_out_, form_in_, form_out_;
  int64_t max_samples_ = 0, state_samples_ = 0, stages_ = 0;
};

rta_attr attribute(nb::handle key, nb::handle value, std::vector<std::string>& texts) {
  rta_attr attr{};
  texts.push_back(nb::cast<std::string>(key));
  attr.name = texts.back().c_str();
  if (nb::isinstance<nb::int_>(value)) {
    attr.kind = RTA_ATTR_INT;
    attr.integer = nb::cast<int64_t>(value);
  } else if (nb::isinstance<nb::float_>(value)) {
    attr.kind = RTA_ATTR_FLOAT;
    attr.real = nb::cast<double>(value);
  } else if (nb::isinstance<nb::str>(value)) {
    attr.kind = RTA_ATTR_TEXT;
    texts.push_back(nb::cast<std::string>(value));
    attr.text = texts.back().c_str();
  } else {  // (address, dtype, elements) of a contiguous tensor
    const auto [address, dtype, count] = nb::cast<std::tuple<uintptr_t, std::string, int64_t>>(value);
    attr.kind = RTA_ATTR_TENSOR;
    attr.data = reinterpret_cast<const void*>(address);
    attr.dtype = dtype_of(dtype).core;
    attr.count = count;
  }
  return attr;
}

std::vector<rta_attr> attributes(nb::dict given, std::vector<std::string>& texts) {
  texts.reserve(2 * given.size());  // the attributes point into it
  std::vector<rta_attr> attrs;
  for (auto [key, value] : given) attrs.push_back(attribute(key, value, texts));
  return attrs;
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

// A plan with its tensors: they are kept alive, and a call is the bare native run.
class Bound {
 public:
  Bound(nb::object plan, nb::object inputs, nb::object outputs)
      : owner_(plan), inputs_(inputs), outputs_(outputs), plan_(nb::cast<const Plan*>(plan)) {
    if (!plan_->fits(inputs, outputs, pointers_)) throw nb::value_error("tensors do not fit the plan");
  }
  void operator()() const { plan_->run_bound(pointers_); }
  // As native_timer.h: the time without that of a call from Python.
  int64_t time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
    return rta_timer::time_native(*this, out, start, stop, deadline);
  }

 private:
  nb::object owner_, inputs_, outputs_;
  const Plan* plan_;
  Pointers pointers_;
};

// The host's side of a mailbox at fixed addresses; the GIL is free while it waits. Slots are taken in turn by the
// number.
class Mailbox {
 public:
  Mailbox(uint64_t requests, int64_t request_words, uint64_t replies, int64_t reply_words)
      : requests_(reinterpret_cast<uint64_t*>(requests)),
        replies_(reinterpret_cast<uint64_t*>(replies)),
        request_words_(request_words),
        reply_words_(reply_words) {}

  // False after a timeout: the message then has the old number still, and the mailbox cannot be used again.
  bool exchange(uint64_t request, uint64_t reply, int64_t timeout_ns) {
    const uint32_t number = ++sequence_;
    nb::gil_scoped_release release;
    return rta_mailbox_exchange(requests_ + (number & 1) * request_words_, reinterpret_cast<const uint32_t*>(request),
                                request_words_, replies_ + (number & 1) * reply_words_,
                                reinterpret_cast<uint32_t*>(reply), reply_words_, number,
                                timeout_ns) == RTA_MAILBOX_DONE;
  }

  // Plays the other side for `messages` of them, in the calling thread; how many were answered before a timeout.
  int64_t echo(int64_t messages, int64_t timeout_ns) {
    nb::gil_scoped_release release;
    for (int64_t i = 0; i < messages; ++i) {
      const uint32_t number = ++echoed_;
      if (rta_mailbox_echo(requests_ + (number & 1) * request_words_, request_words_,
                           replies_ + (number & 1) * reply_words_, reply_words_, number,
                           timeout_ns) != RTA_MAILBOX_DONE)
        return i;
    }
    return messages;
  }

 private:
  uint64_t *requests_, *replies_;
  int64_t request_words_, reply_words_;
  uint32_t sequence_ = 0, echoed_ = 0;
};

std::string reject(const std::string& op, const std::string& name, nb::dict given) {
  std::vector<std::string> texts;
  const std::vector<rta_attr> attrs = attributes(given, texts);
  const char* reason = rta_kernel_reject(op.c_str(), name.c_str(), attrs.data(), static_cast<int>(attrs.size()));
  return reason ? reason : "";
}

std::vector<std::tuple<std::string, std::string, int>> kernels() {
  std::vector<std::tuple<std::string, std::string, int>> all;
  for (int i = 0; i < rta_kernel_count(); ++i) {
    const rta_kernel k = rta_kernel_at(i);
    all.emplace_back(k.op, k.name, k.rank);
  }
  return all;
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // torch's compiler may hold plans until the interpreter is gone
  m.doc() = "Native core of rtaccel. Internal: use rtaccel.compile and rtaccel.nn.";
  m.def("abi_version", &rta_abi_version);
  m.def("code_bytes", &rta_code_bytes);
  m.def("isa", [] { return std::string(rta_isa()); });
  m.def("kernels", &kernels, "(op, name, rank) of every kernel");
  m.def("reject", &reject, "reason why a kernel cannot compute a problem, or an empty string");
  m.def("connect", &connect);
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<size_t>())
      .def("value", &Plan::value)
      .def("stage", &Plan::stage)
      .def("finish", &Plan::finish)
      .def("run", &Plan::run, nb::arg("inputs").none(), nb::arg("outputs").none())
      .def("call", &Plan::call, nb::arg("inputs").none())
      .def("call_flat", &Plan::call_flat, nb::arg("inputs").none())
      .def("nesting", &Plan::nesting, nb::arg("inputs"), nb::arg("outputs"))
      .def("profile", &Plan::profile, nb::arg("inputs"), nb::arg("outputs"), nb::arg("calls"))
      .def("reset", &Plan::reset, nb::arg("first"), nb::arg("count"))
      .def("save_state", &Plan::save_state)
      .def("load_state", &Plan::load_state)
      .def("prefault", &Plan::prefault)
      .def("lock", &Plan::lock)
      .def("parts", &Plan::parts, nb::arg("stage"), nb::arg("samples"))
      .def_prop_ro("running_threads", &Plan::running_threads)
      .def_prop_ro("state_bytes", &Plan::state_bytes)
      .def_prop_ro("packed_bytes", &Plan::packed_bytes)
      .def_prop_ro("scratch_bytes", &Plan::scratch_bytes);
  nb::class_<Mailbox>(m, "Mailbox", "Messages to a kernel that stays resident on a GPU, by address.")
      .def(nb::init<uint64_t, int64_t, uint64_t, int64_t>(), nb::arg("requests"), nb::arg("request_words"),
           nb::arg("replies"), nb::arg("reply_words"))
      .def("exchange", &Mailbox::exchange, nb::arg("request"), nb::arg("reply"), nb::arg("timeout_ns"))
      .def("echo", &Mailbox::echo, nb::arg("messages"), nb::arg("timeout_ns"));
  nb::class_<Bound>(m, "Bound", "A compiled model bound to its tensors: call it to read and write them.")
      .def(nb::init<nb::object, nb::object, nb::object>(), nb::arg("plan"), nb::arg("inputs").none(),
           nb::arg("outputs").none())
      .def("__call__", &Bound::operator())
      .def("time", &Bound::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
  rta_timer::add_to(m);
}
