// Statistics of a loop: read as they are counted, from this process or another.
#include <nanobind/stl/string.h>

#include <string>

#include "bindings/c_text.h"
#include "bindings/realtime/loop.h"
#include "rta_loop.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

int64_t read(const int64_t& field) { return __atomic_load_n(&field, __ATOMIC_RELAXED); }

nb::dict histogram(const rta_loop_histogram& h) {
  nb::dict d;
  int64_t all = 0;
  for (const int64_t& c : h.counts) all += read(c);
  d["n"] = all;
  d["max_ns"] = read(h.max_ns);
  d["sum_ns"] = read(h.sum_ns);
  d["p50_ns"] = rta_loop_quantile(&h, 0.5);
  d["p99_ns"] = rta_loop_quantile(&h, 0.99);
  d["p999_ns"] = rta_loop_quantile(&h, 0.999);
  nb::list filled;  // (largest value of a bucket, count)
  for (int b = 0; b < RTA_LOOP_BUCKETS; ++b)
    if (const int64_t c = read(h.counts[b])) filled.append(nb::make_tuple(rta_loop_bucket_end(b), c));
  d["buckets"] = filled;
  return d;
}

nb::dict snapshot(const rta_loop_stats* s) {
  nb::dict d;
  const struct {
    const char* name;
    const int64_t& value;
  } fields[] = {
      {"state", s->state},
      {"period_ns", s->period_ns},
      {"deadline_ns", s->deadline_ns},
      {"max_age_ns", s->max_age_ns},
      {"spin_ns", s->spin_ns},
      {"fifo", s->fifo},
      {"locked", s->locked},
      {"started_ns", s->started_ns},
      {"updated_ns", s->updated_ns},
      {"cycles", s->cycles},
      {"skipped", s->skipped},
      {"fresh", s->fresh},
      {"repeated", s->repeated},
      {"waiting", s->waiting},
      {"stale", s->stale},
      {"held", s->held},
      {"fallback", s->fallback},
      {"forecast", s->forecast},
      {"misses", s->misses},
      {"caught_up", s->caught_up},
      {"streak", s->streak},
      {"longest_streak", s->longest_streak},
      {"clock_back", s->clock_back},
      {"overwritten", s->overwritten},
      {"warm_runs", s->warm_runs},
      {"warm_skipped", s->warm_skipped},
      {"every_runs", s->every_runs},
      {"failed_by", s->failed_by},
  };
  for (const auto& f : fields) d[f.name] = read(f.value);
  d["pid"] = s->owner >> 32;
  d["alive"] = rta_loop_alive(s) != 0;
  d["wake_error"] = histogram(s->wake_error);
  d["work"] = histogram(s->work);
  d["response"] = histogram(s->response);
  d["age"] = histogram(s->age);
  d["latency"] = histogram(s->latency);
  return d;
}

struct StatsFile {
  const rta_loop_stats* stats;
  explicit StatsFile(const std::string& name) : stats(rta_loop_stats_open(c_text(name))) {
    if (!stats) throw nb::value_error(rta_loop_error_text());
  }
  ~StatsFile() { rta_loop_stats_close(stats); }
};

}  // namespace

void add_loop_stats(nb::module_& m) {
  nb::class_<StatsFile>(m, "LoopStatsFile", "Statistics of a loop of any process, by name.")
      .def(nb::init<const std::string&>())
      .def("snapshot", [](const StatsFile& f) { return snapshot(f.stats); });
  m.def("loop_snapshot", [](uint64_t stats) { return snapshot(reinterpret_cast<const rta_loop_stats*>(stats)); });
  m.def("loop_bucket", &rta_loop_bucket);
  m.def("loop_bucket_end", &rta_loop_bucket_end);
}

}  // namespace rta_torch
