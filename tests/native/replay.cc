// Replays the conformance cases that write_cases.py wrote, on every kernel of their operator.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>

#include "_system/dtypes.h"
#include "harness.h"

namespace check {
namespace {

class Reader {
 public:
  explicit Reader(const char* path) : file_(std::fopen(path, "rb")) {
    if (!file_) {
      std::perror(path);
      std::exit(2);
    }
  }
  ~Reader() { std::fclose(file_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  int64_t integer() { return number<int64_t>(); }
  double real() { return number<double>(); }
  std::vector<char> data() {
    std::vector<char> content(static_cast<size_t>(integer()));
    bytes(content.data(), content.size());
    return content;
  }
  std::string text() {
    const std::vector<char> content = data();
    return std::string(content.begin(), content.end());
  }

 private:
  template <class T>
  T number() {
    T value;
    bytes(&value, sizeof value);
    return value;
  }
  void bytes(void* to, size_t count) {
    if (count && std::fread(to, 1, count, file_) != count) {
      std::fputs("the file of cases ends early\n", stderr);
      std::exit(2);
    }
  }
  std::FILE* file_;
};

struct Tensor {
  Shape shape;
  std::vector<char> data;
  std::vector<char> atol;  // float64, of outputs
};

struct Case {
  std::string op, id;
  int64_t weight_bytes, samples, steps;
  std::vector<Tensor> inputs, outputs;
  std::deque<std::string> texts;                 // names and texts, which stay where they are
  std::deque<std::unique_ptr<Guarded>> tensors;  // of attributes
  Attributes attrs;
  Attributes described;  // what a kernel is asked about: dtype and layout of weights
};

std::vector<Tensor> read_values(Reader& in, bool outputs) {
  std::vector<Tensor> values(static_cast<size_t>(in.integer()));
  for (Tensor& t : values) {
    t.shape.dtype = static_cast<rta_dtype>(in.integer());
    t.shape.steps = in.integer();
    t.shape.width = in.integer();
    t.data = in.data();
    if (outputs) t.atol = in.data();
  }
  return values;
}

void read_attribute(Reader& in, Case& c) {
  c.texts.push_back(in.text());
  const char* name = c.texts.back().c_str();
  switch (in.integer()) {
    case RTA_ATTR_INT: c.attrs.set(name, in.integer()); break;
    case RTA_ATTR_FLOAT: c.attrs.set(name, in.real()); break;
    case RTA_ATTR_TEXT:
      c.texts.push_back(in.text());
      c.attrs.set(name, c.texts.back().c_str());
      if (std::strcmp(name, "weight_dtype") == 0 || std::strcmp(name, "layout") == 0)
        c.described.set(name, c.texts.back().c_str());
      break;
    default: {
      const rta_dtype dtype = static_cast<rta_dtype>(in.integer());
      const int64_t count = in.integer();
      const std::vector<char> data = in.data();
      c.tensors.push_back(std::make_unique<Guarded>(data.size()));
      c.attrs.set(name, c.tensors.back()->place(data.data(), data.size()), dtype, count);
    }
  }
}

template <class T>
T at(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + i * sizeof(T), sizeof(T));
  return value;
}

// The number of cells that are further from the reference than they may be.
size_t wrong(const Tensor& want, const void* got, int64_t steps) {
  size_t count = 0;
  if (want.shape.dtype == RTA_INT8) {
    for (size_t i = 0; i < want.data.size(); ++i)
      count += std::abs(at<int8_t>(got, i) - at<int8_t>(want.data.data(), i)) > steps;
    return count;
  }
  if (want.shape.dtype == RTA_BFLOAT16 || want.shape.dtype == RTA_FLOAT16) {  // any NaN for a NaN
    const int infinity = want.shape.dtype == RTA_BFLOAT16 ? 0x7f80 : 0x7c00;
    for (size_t i = 0; i < want.data.size() / 2; ++i) {
      const int a = at<uint16_t>(got, i), b = at<uint16_t>(want.data.data(), i);
      count += a != b && ((a & 0x7fff) <= infinity || (b & 0x7fff) <= infinity);
    }
    return count;
  }
  if (want.shape.dtype != RTA_FLOAT32) {  // whole numbers and truth values are exact
    const size_t size = want.shape.dtype == RTA_INT64 ? 8 : want.shape.dtype == RTA_INT32 ? 4 : 1;
    for (size_t i = 0; i < want.data.size(); i += size)
      count += std::memcmp(static_cast<const char*>(got) + i, want.data.data() + i, size) != 0;
    return count;
  }
  for (size_t i = 0; i < want.data.size() / 4; ++i) {
    const float a = at<float>(got, i), b = at<float>(want.data.data(), i);
    const double atol = at<double>(want.atol.data(), i);
    count += !(a == b || (a != a && b != b) || std::fabs(double{a} - double{b}) <= atol);
  }
  return count;
}

void replay(const Case& c, const char* kernel, Report& report) {
  running(c.op.c_str(), kernel, c.id.c_str());
  std::vector<Shape> ins, outs;
  std::deque<std::unique_ptr<Guarded>> memory;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const Tensor& t : c.inputs) {
    ins.push_back(t.shape);
    memory.push_back(std::make_unique<Guarded>(t.data.size()));
    from.push_back(memory.back()->place(t.data.data(), t.data.size()));
  }
  for (const Tensor& t : c.outputs) {
    outs.push_back(t.shape);
    memory.push_back(std::make_unique<Guarded>(t.data.size()));
    to.push_back(memory.back()->place(t.data.size()));
  }
  OneStage plan(c.op.c_str(), kernel, ins, outs, c.attrs, static_cast<size_t>(c.weight_bytes));
  plan.run(from, to, c.samples);
  for (size_t i = 0; i < to.size(); ++i) {
    const size_t bad = wrong(c.outputs[i], to[i], c.steps);
    report.expect(bad == 0, "%s %s: %zu cells of output %zu are wrong", kernel, c.id.c_str(), bad, i);
  }
  for (const auto& part : memory) report.expect(part->intact(), "%s: wrote in front of a tensor", c.id.c_str());
}

// Whether the values behind the first are states: what goes in comes out as it was, changed by the call.
bool carries_states(const Case& c) {
  if (c.outputs.size() < 2 || c.inputs.size() < c.outputs.size()) return false;
  for (size_t i = 1; i < c.outputs.size(); ++i) {
    const Shape &in = c.inputs[i].shape, &out = c.outputs[i].shape;
    if (in.dtype != out.dtype || in.steps != out.steps || in.width != out.width) return false;
  }
  return true;
}

// A plan of one stage that keeps its states, for the samples of a case.
rta_plan* stateful_plan(const Case& c, const char* kernel) {
  rta_plan* plan = rta_plan_create(static_cast<size_t>(c.weight_bytes));
  std::vector<int> in, out;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Shape& s = c.inputs[i].shape;
    const bool state = i > 0 && i < c.outputs.size();
    in.push_back(rta_plan_value(plan, s.dtype, s.steps, s.width, state ? RTA_STATE : RTA_INPUT));
  }
  const Shape& y = c.outputs[0].shape;
  out.push_back(rta_plan_value(plan, y.dtype, y.steps, y.width, RTA_OUTPUT));
  out.insert(out.end(), in.begin() + 1, in.begin() + static_cast<std::ptrdiff_t>(c.outputs.size()));
  if (rta_plan_stage(plan, c.op.c_str(), kernel, in.data(), static_cast<int>(in.size()), out.data(),
                     static_cast<int>(out.size()), c.attrs.data(), c.attrs.size()) != 0 ||
      rta_plan_finish(plan, c.samples, 3) != 0) {
    rta_plan_destroy(plan);
    return nullptr;
  }
  return plan;
}

// States of any bytes are refused with nothing changed, or taken, and then no call touches memory that is not its own.
void stray_states(const Case& c, const char* kernel, Report& report) {
  running(c.op.c_str(), kernel, (c.id + " with stray states").c_str());
  rta_plan* plan = stateful_plan(c, kernel);
  if (!plan) return;
  std::deque<std::unique_ptr<Guarded>> memory;
  std::vector<const void*> from;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    if (i > 0 && i < c.outputs.size()) continue;
    memory.push_back(std::make_unique<Guarded>(c.inputs[i].data.size()));
    from.push_back(memory.back()->place(c.inputs[i].data.data(), c.inputs[i].data.size()));
  }
  memory.push_back(std::make_unique<Guarded>(c.outputs[0].data.size()));
  void* to[] = {memory.back()->place(c.outputs[0].data.size())};
  const auto step = [&] { rta_plan_run(plan, from.data(), to, c.samples); };
  Random random(c.id.size());
  std::vector<char> good(rta_plan_state_bytes(plan)), bad, now(good.size());
  const int64_t numbers[] = {-1, -3, INT64_MIN, INT64_MAX, INT64_MAX - 1, int64_t{1} << 62, 5, 0};
  for (int round = 0; round < 12; ++round) {
    step();
    rta_plan_save_state(plan, good.data());
    bad = good;
    if (round % 4 == 0)  // the counters, which lie last
      std::memcpy(bad.data() + bad.size() - 8 * static_cast<size_t>(random.between(1, static_cast<int>(1 + c.samples))),
                  &numbers[random.between(0, 7)], 8);
    else if (round % 4 == 1)
      for (char& byte : bad) byte = static_cast<char>(random.bits());
    else
      for (int flips = random.between(1, 9); flips > 0; --flips)
        bad[static_cast<size_t>(random.bits() % bad.size())] ^= static_cast<char>(1 << random.between(0, 7));
    const bool taken = rta_plan_load_state(plan, bad.data()) == 0;
    rta_plan_save_state(plan, now.data());
    report.expect(std::memcmp(now.data(), taken ? bad.data() : good.data(), now.size()) == 0,
                  "%s %s: a state that was %s is another", kernel, c.id.c_str(), taken ? "taken" : "refused");
    step();
    step();
    report.expect(rta_plan_load_state(plan, good.data()) == 0, "%s %s: a saved state is refused", kernel, c.id.c_str());
  }
  for (const auto& part : memory) report.expect(part->intact(), "%s: wrote in front of a tensor", c.id.c_str());
  rta_plan_destroy(plan);
}

}  // namespace

void replay_cases(const char* path, std::map<std::pair<std::string, std::string>, Report>& reports) {
  Reader in(path);
  if (in.text() != "rtaccel cases 1") {
    std::fprintf(stderr, "%s holds no cases\n", path);
    std::exit(2);
  }
  for (int64_t left = in.integer(); left > 0; --left) {
    Case c;
    c.op = in.text();
    c.id = in.text();
    c.weight_bytes = in.integer();
    c.samples = in.integer();
    c.steps = in.integer();
    c.inputs = read_values(in, false);
    c.outputs = read_values(in, true);
    c.described.set("input_dtype", rta::kDtypes[c.inputs[0].shape.dtype].name);
    for (int64_t attrs = in.integer(); attrs > 0; --attrs) read_attribute(in, c);
    for (int i = 0; i < rta_kernel_count(); ++i) {
      const rta_kernel kernel = rta_kernel_at(i);
      if (c.op != kernel.op || rta_kernel_reject(kernel.op, kernel.name, c.described.data(), c.described.size()))
        continue;
      replay(c, kernel.name, reports[{kernel.op, kernel.name}]);
      if (carries_states(c)) stray_states(c, kernel.name, reports[{kernel.op, kernel.name}]);
    }
  }
}

}  // namespace check
