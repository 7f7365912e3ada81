// Streams that come, go and start anew while a batcher runs. Only the worker touches the plan: here the slot is marked.
#include "batcher.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_serve;

int rta_batcher::change(int64_t stream, Change what) {
  if (stream < 0 || stream >= config.streams) return RTA_PUT_STREAM;
  const Inside here(inside);
  if (!open.load()) return RTA_PUT_STOPPED;
  Slot& s = slot(stream);
  const uint32_t word = take_slot(s);
  if (s.removed != (what == Change::kAdd)) {
    s.word.store(word, std::memory_order_release);
    return RTA_PUT_STREAM;
  }
  const bool waited = word == kWaiting;
  if (waited) {
    s.emptied = true;
    emptied.fetch_add(1);
  }
  s.anew = true;
  s.removed = what == Change::kRemove;
  if (what == Change::kRemove) present.fetch_sub(1);
  if (what == Change::kAdd) {
    present.fetch_add(1);
    s.stamp = INT64_MIN;  // another source, with stamps of its own
  }
  // The worker may have seen its mark: it then finds an empty slot.
  const int32_t ticket = s.ticket;
  s.word.store(kEmpty, std::memory_order_release);
  if (waited) {
    replaced.fetch_add(1, std::memory_order_relaxed);
    if (ticket >= 0) answer(ticket, RTA_ANSWER_REPLACED, now());
  }
  // All that are left may wait already: the worker looks again.
  if (what == Change::kRemove) wake();
  return waited ? 1 : 0;
}

void rta_batcher::start_anew() {
  for (int64_t i = 0; i < config.streams; ++i) {
    if (slot(i).anew) rta_plan_reset(config.plan, i, 1);
    slot(i).anew = false;
  }
}

RTA_API int rta_batcher_reset(rta_batcher* b, int64_t stream) {
  return b ? b->change(stream, rta_batcher::Change::kReset) : RTA_PUT_STOPPED;
}
RTA_API int rta_batcher_remove(rta_batcher* b, int64_t stream) {
  return b ? b->change(stream, rta_batcher::Change::kRemove) : RTA_PUT_STOPPED;
}
RTA_API int rta_batcher_add(rta_batcher* b, int64_t stream) {
  return b ? b->change(stream, rta_batcher::Change::kAdd) : RTA_PUT_STOPPED;
}
