#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

#include "realtime/latest_memory.h"
#include "realtime/loop.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace rta_realtime {
namespace {

thread_local char error_text[512] = "";

bool fits(const rta_loop_stats* s, size_t bytes) {
  return bytes >= sizeof *s && std::memcmp(s->magic, RTA_LOOP_MAGIC, 8) == 0 && s->version == RTA_LOOP_VERSION &&
         s->bytes == sizeof *s;
}

// Of a loop that is to run here: those of a loop that is gone are written over.
bool take_stats(void* base, size_t bytes, bool fresh, const void* from) {
  auto* s = static_cast<rta_loop_stats*>(base);
  const bool readable = from == nullptr;
  if (!fresh && bytes != sizeof *s) return loop_error("there is something else than statistics of a loop"), false;
  const bool there = !fresh && fits(s, bytes);
  if (readable) return there || (loop_error("no statistics of a loop of this version"), false);
  if (there && rta_loop_alive(s))
    return loop_error("a loop of this name runs in process %u", static_cast<unsigned>(s->owner >> 32)), false;
  std::memset(s, 0, sizeof *s);
  std::memcpy(s->magic, RTA_LOOP_MAGIC, 8);
  s->version = RTA_LOOP_VERSION;
  s->bytes = sizeof *s;
  s->owner = own_id();
  return true;
}

rta_loop_stats* mapped(const char* name, size_t bytes, const void* from) {
  const std::string whole = std::string("loop.") + name;
  loop_error("%s", "");
  const Mapping map = map_shared(whole.c_str(), bytes, take_stats, from);
  if (!map.base && !*error_text) loop_error("%s", rta_latest_error_text());
  return static_cast<rta_loop_stats*>(map.base);
}

}  // namespace

int loop_error(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error_text, sizeof error_text, format, args);
  va_end(args);
  return -1;
}

rta_loop_stats* make_stats(const char* name) {
  static const char own = 0;
  if (name) return mapped(name, sizeof(rta_loop_stats), &own);
  const Mapping map = map_private(sizeof(rta_loop_stats));
  if (!map.base) return nullptr;
  take_stats(map.base, map.bytes, true, &own);
  return static_cast<rta_loop_stats*>(map.base);
}

void count(rta_loop_histogram& h, int64_t ns) {
  ns = ns < 0 ? 0 : ns;
  add(h.counts[rta_loop_bucket(ns)]);
  add(h.sum_ns, ns);
  if (ns > h.max_ns) put(h.max_ns, ns);
}

}  // namespace rta_realtime

using namespace rta_realtime;

RTA_API const char* rta_loop_error_text(void) { return error_text; }

RTA_API int rta_loop_bucket(int64_t ns) {
  if (ns < 32) return ns < 0 ? 0 : static_cast<int>(ns);
  const int top = 63 - __builtin_clzll(static_cast<uint64_t>(ns));
  const int bucket = (top - 4) * 32 + static_cast<int>((ns >> (top - RTA_LOOP_SUB_BITS)) & 31);
  return bucket < RTA_LOOP_BUCKETS ? bucket : RTA_LOOP_BUCKETS - 1;
}

RTA_API int64_t rta_loop_bucket_end(int bucket) {
  if (bucket < 32) return bucket;
  if (bucket >= RTA_LOOP_BUCKETS - 1) return INT64_MAX;
  const int top = bucket / 32 + 4;
  return ((int64_t{33} + bucket % 32) << (top - RTA_LOOP_SUB_BITS)) - 1;
}

RTA_API int64_t rta_loop_quantile(const rta_loop_histogram* h, double share) {
  if (!h) return -1;
  int64_t all = 0, seen = 0;
  for (const int64_t& c : h->counts) all += __atomic_load_n(&c, __ATOMIC_RELAXED);
  if (all == 0) return -1;
  const int64_t max = __atomic_load_n(&h->max_ns, __ATOMIC_RELAXED);
  const auto wanted = static_cast<int64_t>(share * static_cast<double>(all) + 0.999999);
  for (int b = 0; b < RTA_LOOP_BUCKETS; ++b) {
    seen += __atomic_load_n(&h->counts[b], __ATOMIC_RELAXED);
    if (seen >= wanted && seen > 0) {
      const int64_t end = rta_loop_bucket_end(b);
      return end < max ? end : max;
    }
  }
  return max;
}

RTA_API const rta_loop_stats* rta_loop_stats_open(const char* name) {
  if (!name) return loop_error("the name is NULL"), nullptr;
  return mapped(name, 0, nullptr);
}

RTA_API void rta_loop_stats_close(const rta_loop_stats* s) {
  if (s) munmap(const_cast<rta_loop_stats*>(s), sizeof *s);
}

RTA_API int rta_loop_alive(const rta_loop_stats* s) {
  return s && __atomic_load_n(&s->state, __ATOMIC_RELAXED) <= RTA_LOOP_RUNNING && owner_alive(s->owner) ? 1 : 0;
}
