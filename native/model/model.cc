// The C ABI of models from files.
#include <algorithm>
#include <cstring>
#include <utility>

#include "_core/guard.h"
#include "_core/plan.h"
#include "answered.h"
#include "arguments.h"
#include "artifact.h"
#include "open_model.h"
#include "prepacked.h"

using namespace rta;

namespace {

void check_flags(unsigned flags) {
  const unsigned unknown = flags & ~static_cast<unsigned>(RTA_UNCHECKED | RTA_LARGE | RTA_IN_PLACE);
  if (unknown) refuse(RTA_BAD_ARGUMENT, "flags 0x%x, which this version does not know", unknown);
}

Bytes bytes_of(const char* path, unsigned flags) {
  check_flags(flags);
  need(path, "the path");
#ifndef RTA_PACKED
  if (flags & RTA_IN_PLACE) return Bytes::mapped(path);
#endif
  static_cast<void>(flags);
  return Bytes(path);
}
Bytes bytes_of(const void* data, size_t size, unsigned flags) {
  check_flags(flags);
  return flags & RTA_IN_PLACE && data ? Bytes::of(data, size) : bytes_at(data, size);
}

#ifdef RTA_PACKED
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
    need_model(model);
    model->swap(source(), flags);
    return 0;
  });
  if (!model) return result;
#ifdef RTA_PACKED
  Region::release(model->unused);
#endif
  model->unused = nullptr;
  return result;
}

}  // namespace

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
  const auto source = [=] {
    need(memory, "the memory for the model");  // else it would be the system's
    return bytes_of(data, size, flags | RTA_IN_PLACE);
  };
  return opened(source, flags, threads, memory, memory_bytes);
}
RTA_API size_t rta_model_memory(const rta_model* model) { return model ? model->region->used() : 0; }
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

RTA_API const char* rta_model_name(const rta_model* model) { return model ? model->name : nullptr; }
RTA_API int rta_model_count(const rta_model* model, int outputs) {
  return answered(-1, [&] {
    need_model(model);
    return static_cast<int>(model->tensors[outputs ? 1 : 0].size());
  });
}
RTA_API int rta_model_tensor(const rta_model* model, int output, int index, rta_tensor* tensor) {
  return answered(-1, [&] {
    need_model(model);
    need(tensor, "the tensor to fill");
    const auto& list = model->tensors[output ? 1 : 0];
    if (index < 0 || static_cast<size_t>(index) >= list.size())
      refuse(RTA_BAD_ARGUMENT, "%s has no %s %d", model->name, output ? "output" : "input", index);
    *tensor = list[static_cast<size_t>(index)];
    return 0;
  });
}
RTA_API void rta_model_batch(const rta_model* model, int64_t* least, int64_t* most) {
  if (least) *least = model ? model->batch_least : 0;
  if (most) *most = model ? model->batch_most : 0;
}
RTA_API int64_t rta_model_streams(const rta_model* model) {
  return answered(int64_t{-1}, [&] {
    need_model(model);
    return model->streams;
  });
}

RTA_API int rta_model_step(rta_model* model, const void* const* in, void* const* out, int64_t samples) {
  if (check_step(model, in, out, samples) != 0) return -1;
  if (!model->takes(samples)) return refuse_samples(model, samples);
  return ended(rta_plan_run(model->plan, in, out, samples));
}
RTA_API int rta_model_step_some(rta_model* model, const void* const* in, void* const* out, int64_t samples,
                                const int64_t* streams) {
  if (check_step(model, in, out, samples) != 0) return -1;
  if (!streams && samples) return refuse_streams(model);
  return ended(rta_plan_run_some(model->plan, in, out, samples, streams));
}
RTA_API int rta_model_reset(rta_model* model, int64_t first, int64_t count) {
  return answered(-1, [&] {
    need_model(model);
    if (first < 0 || count < 0 || first > model->streams - count)
      refuse(RTA_BAD_ARGUMENT, "streams %lld and %lld more, of %lld", static_cast<long long>(first),
             static_cast<long long>(count), static_cast<long long>(model->streams));
    rta_plan_reset(model->plan, first, count);
    return 0;
  });
}
RTA_API size_t rta_model_state_bytes(const rta_model* model) { return model ? rta_plan_state_bytes(model->plan) : 0; }
RTA_API void rta_model_save_state(const rta_model* model, void* to) {
  if (model && to) rta_plan_save_state(model->plan, to);
}
RTA_API int rta_model_load_state(rta_model* model, const void* from) {
  return answered(-1, [&] {
    need_model(model);
    need(from, "the address of the states");
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
    need_model(model);
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
RTA_API int rta_model_pending(const rta_model* model) { return model ? rta_plan_pending(model->plan) : 0; }

RTA_API int rta_model_stage(const rta_model* model, int stage, const char** name, const char** op,
                            const char** kernel) {
  return answered(-1, [&] {
    need_model(model);
    if (stage < 0 || static_cast<size_t>(stage) >= model->chosen.size())
      refuse(RTA_BAD_ARGUMENT, "%s has no stage %d", model->name, stage);
    const Chosen& found = model->chosen[static_cast<size_t>(stage)];
    if (name) *name = found.name;
    if (op) *op = found.op;
    if (kernel) *kernel = found.kernel;
    return 0;
  });
}

RTA_API size_t rta_model_prepacked(const rta_model* model, const char** why) {
  if (why) *why = model ? model->why_packed : nullptr;
  return model ? model->plan->in_place : 0;
}
RTA_API size_t rta_model_pack(const rta_model* model, void* to) {
#ifdef RTA_PACKED
  static_cast<void>(model), static_cast<void>(to);
  return 0;  // it asks for memory
#else
  return answered(size_t{0}, [&] {
    need_model(model);
    std::vector<const char*> kernels;
    for (const Chosen& stage : model->chosen) kernels.push_back(stage.kernel);
    return write_prepacked(model->plan->packed_parts.all, kernels, static_cast<uint8_t*>(to));
  });
#endif
}

RTA_API int64_t rta_model_prefault(rta_model* model) {
  return answered(int64_t{-1}, [&] {
    need_model(model);
    const int64_t bytes = rta_plan_prefault(model->plan);
    if (bytes < 0) refuse(RTA_OTHER, "%s", last_error().c_str());
    return bytes;
  });
}
RTA_API int rta_model_lock(rta_model* model) {
  return answered(-1, [&] {
    need_model(model);
    checked(rta_plan_lock(model->plan), RTA_OTHER, "locking the memory");
    return 0;
  });
}
RTA_API rta_plan* rta_model_plan(rta_model* model) { return model ? model->plan : nullptr; }

RTA_API int rta_model_digest(const char* path, unsigned char digest[32]) {
  return answered(-1, [&] {
    need(path, "the path");
    need(digest, "the room for the digest");
    std::memcpy(digest, Seal(Bytes(path)).computed.bytes, 32);
    return 0;
  });
}

RTA_API int rta_model_verify_with(const char* path, const unsigned char key[32],
                                  int (*verify)(const unsigned char*, const unsigned char*, unsigned long long,
                                                const unsigned char*)) {
  return answered(-1, [&] {
    need(path, "the path");
    need(key, "the key");
    need(reinterpret_cast<const void*>(verify), "the function that verifies");
    check_signed(Bytes(path), path, key, verify);
    return 0;
  });
}
}
