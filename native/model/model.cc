// A model from a file: builds the plan that the file describes, with the best kernels of this machine.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "_core/guard.h"
#include "_core/plan.h"
#include "artifact.h"
#include "open_model.h"
#include "prepacked.h"
#ifdef RTA_PACKED
#include "packed/rta_packed.h"
#endif

using namespace rta;

namespace {

struct Destroy {
  void operator()(rta_plan* plan) const { rta_plan_destroy(plan); }
};
using PlanPtr = std::unique_ptr<rta_plan, Destroy>;

std::vector<rta_attr> asked(const Artifact& from, const Artifact::StageRecord& stage) {
  std::vector<rta_attr> attrs = stage.attrs;
  rta_attr input{};
  input.name = "input_dtype";
  input.kind = RTA_ATTR_TEXT;
  input.text = dtype_name(from.values[static_cast<size_t>(stage.inputs[0])].dtype);
  attrs.insert(attrs.begin(), input);
  return attrs;
}

// Why no kernel of this build computes the stage here.
[[noreturn]] void refuse_stage(const Artifact::StageRecord& stage, const Attrs& attrs) {
  char reasons[256] = "";
  size_t length = 0;
  for (const KernelRow* row = first_kernel(); row; row = row->next) {
    if (std::strcmp(row->kernel.op, stage.op) != 0) continue;
    const size_t left = sizeof reasons - length;
    const int more = std::snprintf(reasons + length, left, "%s%s: %s", length ? "; " : "", row->kernel.name,
                                   rejected(row->kernel, attrs));
    length += std::min(static_cast<size_t>(more), left - 1);
  }
  refuse(RTA_NO_KERNEL, "stage %s: no kernel for %s here (%s)", stage.name, stage.op,
         length ? reasons : "this build has none");
}

// The preferred kernel of those that can compute the stage on this machine; refuses with the reasons where there is
// none.
const char* kernel_for(const Artifact& from, const Artifact::StageRecord& stage) {
  const std::vector<rta_attr> listed = asked(from, stage);
  const Attrs attrs(listed.data(), static_cast<int>(listed.size()));
  const IsaSet here = isa_level();
  const Kernel* best = nullptr;
  for (const KernelRow* row = first_kernel(); row; row = row->next) {
    const Kernel& kernel = row->kernel;
    if (*kernel.op != *stage.op || std::strcmp(kernel.op, stage.op) != 0) continue;
    if ((best && kernel.rank <= best->rank) || kernel.isa > here || unsuited(kernel, attrs)) continue;
    best = &kernel;
  }
  if (!best) refuse_stage(stage, attrs);
  return best->name;
}

void checked(int result, rta_code code, const char* what) {
  if (result < 0) refuse(code, "%s: %s", what, last_error().c_str());
}

struct KeptBytes : Kept {
  explicit KeptBytes(Bytes own) : bytes(std::move(own)) {}
  Bytes bytes;
};

// from: of these bytes. why: where it is not NULL, receives why packed weights in them were not taken.
PlanPtr plan_of(const Artifact& from, Bytes bytes, int threads, std::vector<Chosen>* chosen, const char** why) {
  PlanPtr plan(rta_plan_create(from.packed_bytes));
  if (!plan) refuse(RTA_CANNOT_READ, "%s", last_error().c_str());
  plan->most_bytes = from.most_bytes;
  for (const Artifact::ValueRecord& v : from.values)
    checked(rta_plan_value(plan.get(), v.dtype, v.steps, v.width, v.role), RTA_BAD_FORMAT, "a value");
  std::vector<const char*> kernels;
  for (const Artifact::StageRecord& s : from.stages) kernels.push_back(kernel_for(from, s));
  const PrepackedSection section(from, kernels);
  const bool stays = bytes.stays();
  if (why) *why = from.prepacked && !stays ? "a copy of the file is not kept here" : section.why();
  for (size_t i = 0; i < from.stages.size(); ++i) {
    const Artifact::StageRecord& s = from.stages[i];
    const char* kernel = kernels[i];
    if (stays) plan->prepacked = section.stage(i);
    checked(
        rta_plan_stage(plan.get(), s.op, kernel, s.inputs.data(), static_cast<int>(s.inputs.size()), s.outputs.data(),
                       static_cast<int>(s.outputs.size()), s.attrs.data(), static_cast<int>(s.attrs.size())),
        RTA_BAD_FORMAT, s.name);
    if (chosen) chosen->push_back({s.name, s.op, kernel});
  }
  if (plan->in_place) {
    plan->kept_start = bytes.data();
    plan->kept_bytes = bytes.size();
    plan->kept = std::make_unique<KeptBytes>(std::move(bytes));
  }
  if (threads != 1) checked(rta_plan_threads(plan.get(), threads), RTA_BAD_ARGUMENT, "threads");
  checked(rta_plan_finish(plan.get(), from.streams, from.memory), RTA_BAD_FORMAT, "the plan");
  if (from.state_bytes) {
    const size_t held = rta_plan_state_bytes(plan.get());
    const bool fits = from.state_bytes == held;
    if (!fits || rta_plan_load_state(plan.get(), from.states) != 0) {
      plan.reset();  // its threads end before the refusal
      if (!fits) refuse(RTA_BAD_FORMAT, "%zu bytes of states, where the plan holds %zu", from.state_bytes, held);
      refuse(RTA_BAD_FORMAT, "states: %s", last_error().c_str());
    }
  }
  return plan;
}

bool same(const std::vector<rta_tensor>& a, const std::vector<rta_tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const rta_tensor& p, const rta_tensor& q) {
    return p.dtype == q.dtype && p.rank == q.rank && std::equal(p.shape, p.shape + 8, q.shape);
  });
}

template <class F, class T>
T answered(T failure, F f) {
  last_code() = RTA_OTHER;
  T result = failure;
  const bool held = attempt([&] { result = f(); });
#ifdef RTA_PACKED
  release_temporaries();
#endif
  if (!held) return failure;
  last_code() = RTA_OK;
  return result;
}

Bytes bytes_of(const char* path, unsigned flags) {
#ifndef RTA_PACKED
  if (flags & RTA_IN_PLACE) return Bytes::mapped(path);
#endif
  static_cast<void>(flags);
  return Bytes(path);
}
Bytes bytes_of(const void* data, size_t size, unsigned flags) {
  return flags & RTA_IN_PLACE ? Bytes::of(data, size) : Bytes(data, size);
}

#ifdef RTA_PACKED
// Addresses for a model from a file of so many bytes; what the file may ask for is bounded by this too.
size_t addresses(size_t bytes, unsigned flags) {
  const uint64_t most = flags & RTA_LARGE ? uint64_t{1} << 40 : uint64_t{256} * bytes + (uint64_t{96} << 20);
  return static_cast<size_t>(std::min<uint64_t>(most, SIZE_MAX / 2));
}

// A model in one region: the caller's memory, or its own.
template <class Source>
rta_model* opened(Source source, unsigned flags, int threads, void* memory = nullptr, size_t bytes = 0) {
  Region* region = nullptr;
  rta_model* model = answered(static_cast<rta_model*>(nullptr), [&] {
    Bytes file = source();
    region = memory ? Region::within(memory, bytes) : Region::own(addresses(file.size(), flags));
    if (!region) refuse(RTA_CANNOT_READ, "no memory for a model");
    const Within within(region);
    auto* made = new rta_model(std::move(file), flags, threads);
    made->region = region;
    return made;
  });
  if (model) return model;
  if (region && region->is_full()) last_code() = RTA_CANNOT_READ;
  Region::release(region);
  return nullptr;
}
#else
template <class Source>
rta_model* opened(Source source, unsigned flags, int threads) {
  return answered(static_cast<rta_model*>(nullptr), [&] { return new rta_model(source(), flags, threads); });
}
#endif

template <class Source>
int swapped(rta_model* model, Source source, unsigned flags) {
  const int result = answered(-1, [&] {
    model->swap(source(), flags);
    return 0;
  });
#ifdef RTA_PACKED
  Region::release(model->unused);
#endif
  model->unused = nullptr;
  return result;
}

}  // namespace

rta_model::rta_model(Bytes bytes, unsigned flags, int threads_) : threads(threads_) {
  const Artifact from(bytes, flags);
  batch_least = from.batch_least;
  batch_most = from.batch_most;
  streams = from.streams;
  const rta_tensor& first = from.inputs[0];
  each = first.lead ? 1 : 0;
  // Those that are open count as one. Beside a dimension of no elements the others may be anything.
  for (int d = 1; d < first.lead; ++d)
    if (__builtin_mul_overflow(each, std::max<int64_t>(first.shape[d], 1), &each))
      refuse(RTA_BAD_FORMAT, "%s is too large", first.name);
  if (most_samples() > RTA_MOST_SAMPLES)
    refuse(RTA_NO_KERNEL, "it takes more samples than the %lld that this was built for",
           static_cast<long long>(RTA_MOST_SAMPLES));
  texts.assign(from.texts, from.texts + from.text_bytes);
  const auto own = [&](const char*& text) { text = texts.data() + (text - from.texts); };
  own(name = from.name);
  tensors[0] = from.inputs;
  tensors[1] = from.outputs;
  for (auto& list : tensors)
    for (rta_tensor& tensor : list) own(tensor.name);
  plan = plan_of(from, std::move(bytes), threads, &chosen, &why_packed).release();
  for (Chosen& stage : chosen) {
    own(stage.name);
    own(stage.op);
  }
}

rta_model::~rta_model() {
  drop(plan);
  drop(other);
}

void rta_model::drop(rta_plan* which) const {
#ifdef RTA_PACKED
  Region* held = which ? which->region : nullptr;
  rta_plan_destroy(which);
  if (held != region) Region::release(held);
#else
  rta_plan_destroy(which);
#endif
}

int64_t rta_model::most_samples() const {
  if (streams || each == 0) return streams ? streams : 1;
  int64_t most;
  return batch_most < 0 || __builtin_mul_overflow(batch_most, each, &most) ? INT64_MAX : most;
}

bool rta_model::takes(int64_t samples) const {
  if (streams) return samples == streams;
  if (each == 0) return samples == 1;
  return samples >= 0 && samples % each == 0 && samples / each >= batch_least &&
         (batch_most < 0 || samples / each <= batch_most);
}

void rta_model::swap(Bytes bytes, unsigned flags) {
#ifdef RTA_PACKED
  unused = Region::own(addresses(bytes.size(), flags));
  if (!unused) refuse(RTA_CANNOT_READ, "no memory for other weights");
  const Within within(unused);
#endif
  const Artifact from(bytes, flags);
  if (!same(from.inputs, tensors[0]) || !same(from.outputs, tensors[1]) || from.streams != streams ||
      from.batch_least != batch_least || from.batch_most != batch_most || from.stages.size() != chosen.size())
    refuse(RTA_NO_FIT, "a model of other inputs, outputs, batches or stages");
  for (size_t i = 0; i < chosen.size(); ++i)
    if (std::strcmp(chosen[i].op, from.stages[i].op) != 0)
      refuse(RTA_NO_FIT, "stage %s is another", from.stages[i].name);
  PlanPtr next = plan_of(from, std::move(bytes), threads, nullptr, nullptr);
  const bool waited = other && rta_plan_withdraw(plan, other);  // else it is what was there before the last swap
  if (rta_plan_offer(plan, next.get()) != 0) {
    if (waited) rta_plan_offer(plan, other);
    next.reset();
    refuse(RTA_NO_FIT, "%s", last_error().c_str());
  }
  drop(other);
  other = next.release();
  unused = nullptr;
}

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_code rta_error_code(void) { return last_code(); }

RTA_API rta_model* rta_model_open_threaded(const char* path, unsigned flags, int threads) {
  return opened([=] { return bytes_of(path, flags); }, flags, threads);
}
RTA_API rta_model* rta_model_from_memory_threaded(const void* data, size_t size, unsigned flags, int threads) {
  return opened([=] { return bytes_of(data, size, flags); }, flags, threads);
}
RTA_API rta_model* rta_model_open(const char* path, unsigned flags) { return rta_model_open_threaded(path, flags, 1); }
RTA_API rta_model* rta_model_from_memory(const void* data, size_t size, unsigned flags) {
  return rta_model_from_memory_threaded(data, size, flags, 1);
}
#ifdef RTA_PACKED
RTA_API rta_model* rta_model_within(const void* data, size_t size, unsigned flags, int threads, void* memory,
                                    size_t memory_bytes) {
  return opened([data, size] { return Bytes::of(data, size); }, flags, threads, memory, memory_bytes);
}
RTA_API size_t rta_model_memory(const rta_model* model) { return model->region->used(); }
#endif
RTA_API void rta_model_close(rta_model* model) {
#ifdef RTA_PACKED
  if (!model) return;
  model->drop(model->plan);
  model->drop(model->other);
  Region::release(model->region);
#else
  delete model;
#endif
}

RTA_API const char* rta_model_name(const rta_model* model) { return model->name; }
RTA_API int rta_model_count(const rta_model* model, int outputs) {
  return static_cast<int>(model->tensors[outputs ? 1 : 0].size());
}
RTA_API int rta_model_tensor(const rta_model* model, int output, int index, rta_tensor* tensor) {
  return answered(-1, [&] {
    const auto& list = model->tensors[output ? 1 : 0];
    if (index < 0 || static_cast<size_t>(index) >= list.size())
      refuse(RTA_BAD_ARGUMENT, "%s has no %s %d", model->name, output ? "output" : "input", index);
    *tensor = list[static_cast<size_t>(index)];
    return 0;
  });
}
RTA_API void rta_model_batch(const rta_model* model, int64_t* least, int64_t* most) {
  *least = model->batch_least;
  *most = model->batch_most;
}
RTA_API int64_t rta_model_streams(const rta_model* model) { return model->streams; }

RTA_API int rta_model_step(rta_model* model, const void* const* in, void* const* out, int64_t samples) {
  if (!model->takes(samples)) {
    last_code() = RTA_BAD_ARGUMENT;
    last_error() = "a number of samples that the model was not made for";
    return -1;
  }
  return rta_plan_run(model->plan, in, out, samples);
}
RTA_API int rta_model_step_some(rta_model* model, const void* const* in, void* const* out, int64_t samples,
                                const int64_t* streams) {
  return rta_plan_run_some(model->plan, in, out, samples, streams) == 0 ? 0 : -1;
}
RTA_API int rta_model_reset(rta_model* model, int64_t first, int64_t count) {
  return answered(-1, [&] {
    if (first < 0 || count < 0 || first > model->streams - count)
      refuse(RTA_BAD_ARGUMENT, "streams %lld and %lld more, of %lld", static_cast<long long>(first),
             static_cast<long long>(count), static_cast<long long>(model->streams));
    rta_plan_reset(model->plan, first, count);
    return 0;
  });
}
RTA_API size_t rta_model_state_bytes(const rta_model* model) { return rta_plan_state_bytes(model->plan); }
RTA_API void rta_model_save_state(const rta_model* model, void* to) { rta_plan_save_state(model->plan, to); }
RTA_API int rta_model_load_state(rta_model* model, const void* from) {
  return answered(-1, [&] {
    checked(rta_plan_load_state(model->plan, from), RTA_BAD_ARGUMENT, "states");
    return 0;
  });
}

RTA_API int rta_model_swap(rta_model* model, const char* path, unsigned flags) {
  return swapped(model, [=] { return bytes_of(path, flags); }, flags);
}
RTA_API int rta_model_swap_memory(rta_model* model, const void* data, size_t size, unsigned flags) {
  return swapped(model, [=] { return bytes_of(data, size, flags); }, flags);
}
RTA_API int rta_model_rollback(rta_model* model) {
  return answered(-1, [&] {
    if (!model->other) refuse(RTA_NO_FIT, "there are no weights from before a swap");
    // Taken back before a step saw it, the swap has not happened; else the weights before are what is offered.
    if (!rta_plan_withdraw(model->plan, model->other)) {
      checked(rta_plan_offer(model->plan, model->other), RTA_OTHER, "rollback");
    } else {
      model->drop(model->other);
      model->other = nullptr;
    }
    return 0;
  });
}
RTA_API int rta_model_pending(const rta_model* model) { return rta_plan_pending(model->plan); }

RTA_API int rta_model_stage(const rta_model* model, int stage, const char** name, const char** op,
                            const char** kernel) {
  return answered(-1, [&] {
    if (stage < 0 || static_cast<size_t>(stage) >= model->chosen.size())
      refuse(RTA_BAD_ARGUMENT, "%s has no stage %d", model->name, stage);
    const Chosen& found = model->chosen[static_cast<size_t>(stage)];
    *name = found.name;
    *op = found.op;
    *kernel = found.kernel;
    return 0;
  });
}

RTA_API size_t rta_model_prepacked(const rta_model* model, const char** why) {
  if (why) *why = model->why_packed;
  return model->plan->in_place;
}
RTA_API size_t rta_model_pack(const rta_model* model, void* to) {
#ifdef RTA_PACKED
  static_cast<void>(model), static_cast<void>(to);
  return 0;  // it asks for memory
#else
  return guarded(size_t{0}, [&] {
    std::vector<const char*> kernels;
    for (const Chosen& stage : model->chosen) kernels.push_back(stage.kernel);
    return write_prepacked(model->plan->packed_parts.all, kernels, static_cast<uint8_t*>(to));
  });
#endif
}

RTA_API int64_t rta_model_prefault(rta_model* model) { return rta_plan_prefault(model->plan); }
RTA_API int rta_model_lock(rta_model* model) { return rta_plan_lock(model->plan); }
RTA_API rta_plan* rta_model_plan(rta_model* model) { return model->plan; }

RTA_API int rta_model_digest(const char* path, unsigned char digest[32]) {
  return answered(-1, [&] {
    std::memcpy(digest, Seal(Bytes(path)).computed.bytes, 32);
    return 0;
  });
}

RTA_API int rta_model_verify_with(const char* path, const unsigned char key[32],
                                  int (*verify)(const unsigned char*, const unsigned char*, unsigned long long,
                                                const unsigned char*)) {
  return answered(-1, [&] {
    const Seal seal{Bytes(path)};
    if (!(seal.digest == seal.computed)) refuse(RTA_BAD_DIGEST, "%s: its bytes are not those that were written", path);
    if (!seal.is_signed) refuse(RTA_BAD_KEY, "%s is not signed", path);
    const SignedMessage message(seal.digest);
    if (verify(seal.signature, message.bytes, sizeof message.bytes, key) != 0)
      refuse(RTA_BAD_KEY, "%s was not signed with this key", path);
    return 0;
  });
}
}
