#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "realtime/loop.h"

namespace rta_realtime {

std::unique_ptr<char, void (*)(void*)> buffer(size_t bytes) {
  const size_t whole = std::max<size_t>(64, (bytes + 63) / 64 * 64);
  auto* memory = static_cast<char*>(std::aligned_alloc(64, whole));
  if (memory) std::memset(memory, 0, whole);
  return {memory, std::free};
}

void Buffers::make(const std::vector<size_t>& bytes) {
  bytes_ = bytes;
  for (const size_t n : bytes) {
    memory_.push_back(buffer(n));
    pointers_.push_back(memory_.back().get());
  }
}

bool Buffers::lock() const {
  bool all = true;
  for (size_t i = 0; i < bytes_.size(); ++i) all &= mlock(pointers_[i], bytes_[i]) == 0;
  return all;
}

std::string listed(const std::vector<size_t>& bytes) {
  std::string text;
  for (const size_t n : bytes) text += (text.empty() ? "" : " + ") + std::to_string(n);
  return text;
}

bool Chain::set(const char* what, const rta_step* steps, int count, const rta_step_ports* ports) {
  if (count > 0 && !steps) return loop_error("%s has %d steps at no address", what, count), false;
  for (int i = 0; i < count; ++i) {
    const rta_step& s = steps[i];
    std::vector<size_t> in = {s.in_bytes}, out = {s.out_bytes};
    if (ports) {
      const rta_step_ports& p = ports[i];
      if (p.inputs < 1 || p.inputs > RTA_LOOP_PORTS || p.outputs < 1 || p.outputs > RTA_LOOP_PORTS)
        return loop_error("step %d of %s has %d inputs and %d outputs; 1 to %d", i, what, p.inputs, p.outputs,
                          RTA_LOOP_PORTS),
               false;
      in.assign(p.in_bytes, p.in_bytes + p.inputs);
      out.assign(p.out_bytes, p.out_bytes + p.outputs);
    }
    if (!s.step || std::count(in.begin(), in.end(), 0u) || std::count(out.begin(), out.end(), 0u))
      return loop_error("step %d of %s has no function, or nothing goes in or out", i, what), false;
    if (s.state_bytes && (!s.save || !s.load))
      return loop_error("step %d of %s has a past and nothing that saves it", i, what), false;
    if (i && in != out_bytes())
      return loop_error("step %d of %s takes %s bytes; the one before gives %s", i, what, listed(in).c_str(),
                        listed(out_bytes()).c_str()),
             false;
    steps_.push_back(s);
    past_.push_back(buffer(s.state_bytes));
    between_.emplace_back().make(out);
    in_.push_back(std::move(in));
    out_.push_back(std::move(out));
  }
  if (!steps_.empty()) scrap_.make(out_bytes());
  return true;
}

bool Chain::warms() const {
  return !steps_.empty() && std::all_of(steps_.begin(), steps_.end(), [](const rta_step& s) { return s.warm != 0; });
}

bool Chain::has_past() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const rta_step& s) { return s.state_bytes != 0 || s.reset; });
}

int Chain::run(const void* const* in, void* const* out) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    void* const* to = i + 1 == steps_.size() ? out : between_[i].data();
    if (const int code = steps_[i].step(steps_[i].self, in, to)) {
      failed_ = i;
      return code;
    }
    in = to;
  }
  return 0;
}

void Chain::run_for_nothing(const void* const* in) {
  for (size_t i = 0; i < steps_.size(); ++i)
    if (steps_[i].state_bytes) steps_[i].save(steps_[i].self, past_[i].get());
  run(in, scrap_.data());  // where it refuses the value, the cycle will say so
  for (size_t i = 0; i < steps_.size(); ++i)
    if (steps_[i].state_bytes) steps_[i].load(steps_[i].self, past_[i].get());
}

void Chain::reset() {
  for (const rta_step& s : steps_)
    if (s.reset) s.reset(s.self);
}

const char* Chain::error() const {
  const rta_step& s = steps_[failed_];
  const char* text = s.error ? s.error(s.self) : nullptr;
  return text ? text : "a step gave an error";
}

std::string Chain::prepare() const {
  for (const rta_step& s : steps_)
    if (s.prepare && s.prepare(s.self) != 0) return s.error ? s.error(s.self) : "a step cannot be prepared";
  return "";
}

void Chain::lock_memory(bool& all) const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    all &= between_[i].lock();
    if (steps_[i].state_bytes) all &= mlock(past_[i].get(), steps_[i].state_bytes) == 0;
  }
}

namespace {
std::mutex identities_lock;
std::vector<const void*> in_use;
}  // namespace

bool take_identities(const std::vector<const void*>& wanted) {
  const std::lock_guard<std::mutex> guard(identities_lock);
  for (const void* one : wanted)
    if (std::find(in_use.begin(), in_use.end(), one) != in_use.end()) return false;
  in_use.insert(in_use.end(), wanted.begin(), wanted.end());
  return true;
}

void give_identities(const std::vector<const void*>& held) {
  const std::lock_guard<std::mutex> guard(identities_lock);
  for (const void* one : held) {
    const auto at = std::find(in_use.begin(), in_use.end(), one);
    if (at != in_use.end()) in_use.erase(at);
  }
}

namespace {

int run_plan(void* self, const void* const* in, void* const* out) {
  const auto* p = static_cast<rta_plan_step*>(self);
  return rta_plan_run(p->plan, in, out, p->samples);
}
void save_plan(void* self, void* to) { rta_plan_save_state(static_cast<rta_plan_step*>(self)->plan, to); }
int load_plan(void* self, const void* from) {
  return rta_plan_load_state(static_cast<rta_plan_step*>(self)->plan, from);
}
void reset_plan(void* self) {
  const auto* p = static_cast<rta_plan_step*>(self);
  rta_plan_reset(p->plan, 0, p->state_samples);
}
const char* plan_error(void*) { return rta_error(); }
int prepare_plan(void* self) { return rta_plan_prefault(static_cast<rta_plan_step*>(self)->plan) < 0 ? -1 : 0; }

}  // namespace
}  // namespace rta_realtime

extern "C" __attribute__((visibility("default"))) rta_step rta_step_of_plan(rta_plan_step* p, size_t in_bytes,
                                                                            size_t out_bytes) {
  using namespace rta_realtime;
  if (!p || !p->plan) return {};  // has no function, which rta_loop_create refuses
  const bool past = p->state_samples > 0;
  return {run_plan,
          p,
          in_bytes,
          out_bytes,
          past ? rta_plan_state_bytes(p->plan) : 0,
          past ? save_plan : nullptr,
          past ? load_plan : nullptr,
          past ? reset_plan : nullptr,
          plan_error,
          p->plan,
          1,
          prepare_plan};
}
