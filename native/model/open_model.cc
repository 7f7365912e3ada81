// A model from a file: what it takes, and other weights for it.
#include "open_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "_core/guard.h"
#include "_core/plan.h"
#include "artifact.h"
#include "plan_of.h"

using namespace rta;

namespace {

bool same(const std::vector<rta_tensor>& a, const std::vector<rta_tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const rta_tensor& p, const rta_tensor& q) {
    return p.dtype == q.dtype && p.rank == q.rank && std::equal(p.shape, p.shape + 8, q.shape);
  });
}

}  // namespace

#ifdef RTA_PACKED
size_t rta::addresses(size_t bytes, unsigned flags) {
  const uint64_t most = flags & RTA_LARGE ? uint64_t{1} << 40 : uint64_t{256} * bytes + (uint64_t{96} << 20);
  return static_cast<size_t>(std::min<uint64_t>(most, SIZE_MAX / 2));
}
#endif

void rta::check_signed(const Bytes& bytes, const char* what, const unsigned char* key, Verify verify) {
  const Seal seal{bytes};
  if (!(seal.digest == seal.computed)) refuse(RTA_BAD_DIGEST, "%s: its bytes are not those that were written", what);
  if (!seal.is_signed) refuse(RTA_BAD_KEY, "%s is not signed", what);
  const SignedMessage message(seal.digest);
  if (verify(seal.signature, message.bytes, sizeof message.bytes, key) != 0)
    refuse(RTA_BAD_KEY, "%s was not signed with this key", what);
}

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
