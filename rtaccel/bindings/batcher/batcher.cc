#include "bindings/batcher/batcher.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings/batcher/door.h"
#include "bindings/batcher/side.h"
#include "bindings/batcher/workers.h"
#include "rta_batcher.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

constexpr int64_t kUnfit = INT64_MIN;  // of put: the tensor needs a closer look

// A batcher with its model, which refuses other calls while the worker runs.
class Batcher {
 public:
  Batcher(nb::object model, nb::tuple x, nb::tuple y, nb::dict d)
      : kept_(model), side_(side_of(model, port(x), port(y))) {
    const auto get = [&](const char* key) { return nb::cast<int64_t>(d[key]); };
    rta_batcher_config c = {};
    c.plan = side_->plan;
    c.streams = d.contains("streams") ? get("streams") : side_->streams;
    c.in_bytes = side_->in_bytes;
    c.out_bytes = side_->out_bytes;
    c.deadline_ns = get("deadline_ns");
    c.max_batch = get("max_batch");
    c.tickets = get("tickets");
    c.spin_ns = get("spin_ns");
    c.late = static_cast<int>(get("late"));
    c.cpu = static_cast<int>(get("cpu"));
    c.manual = static_cast<int>(get("manual"));
    if (d.contains("results")) c.results = get("results");
    if (d.contains("workers")) {
      workers_ = d["workers"];
      c.workers = workers_of(workers_);
    }
    core_ = rta_batcher_create(&c);
    if (!core_) throw nb::value_error(rta_batcher_error_text());
  }
  Batcher(const Batcher&) = delete;
  ~Batcher() {
    {
      const nb::gil_scoped_release release;
      rta_batcher_destroy(core_);
    }
    hold(false);
  }

  std::string start() {
    if (side_->looped->exchange(true)) throw nb::value_error("a loop or another batcher runs this model");
    held_ = true;
    int code;
    {
      const nb::gil_scoped_release release;
      code = rta_batcher_start(core_);
    }
    if (code != 0) {
      hold(false);
      throw nb::value_error(rta_batcher_error_text());
    }
    return rta_batcher_refused(core_);
  }

  void stop() { rta_batcher_stop(core_); }

  bool wait_stopped(int64_t timeout_ns) {
    int ended;
    {
      const nb::gil_scoped_release release;
      ended = rta_batcher_wait_stopped(core_, timeout_ns);
    }
    if (ended) hold(false);
    return ended != 0;
  }

  int64_t put(int64_t stream, nb::handle x, int64_t stamp) {
    Side::View row;
    if (!side_->view(x, Kind::kX, row)) return kUnfit;
    return rta_batcher_put(core_, stream, row.data, stamp);
  }

  // What each row came to, as put gives it; None: the tensors need a closer look. stamps: int64 [n], or a single one.
  nb::object put_many(nb::handle streams, nb::handle x, nb::handle stamps) {
    Side::View list, values, times;
    if (!side_->view(streams, Kind::kLongs, list) || !side_->view(x, Kind::kXs, values) || values.rows != list.rows)
      return nb::none();
    const int64_t n = list.rows;
    const bool each = !nb::isinstance<nb::int_>(stamps);
    if (each && (!side_->view(stamps, Kind::kLongs, times) || times.rows != n)) return nb::none();
    const int64_t stamp = each ? 0 : nb::cast<int64_t>(stamps);
    void* data;
    nb::object codes = side_->fresh(Kind::kLongs, n, data);
    auto* code = static_cast<int64_t*>(data);
    {
      const nb::gil_scoped_release release;
      rta_batcher_put_many(core_, n, static_cast<const int64_t*>(list.data), values.data,
                           each ? static_cast<const int64_t*>(times.data) : nullptr, stamp, code);
    }
    return codes;
  }

  int wait(int64_t ticket, int64_t timeout_ns) {
    int code = rta_batcher_wait(core_, ticket, 0);
    if (code == 0 && timeout_ns > 0) {
      const nb::gil_scoped_release release;
      code = rta_batcher_wait(core_, ticket, timeout_ns);
    }
    return code;
  }

  // (status, lateness in ns, y or None); None where it was taken.
  nb::object take(int64_t ticket) {
    void* data;
    nb::object y = side_->fresh(Kind::kY, 1, data);
    int64_t late;
    const int status = rta_batcher_take(core_, ticket, data, &late);
    if (status < 0) return nb::none();
    return nb::make_tuple(status, late, status <= RTA_ANSWER_LATE ? y : nb::none());
  }

  void leave(int64_t ticket) { rta_batcher_leave(core_, ticket); }

  // (streams, y, status, stamps) of the next batch; None after the timeout, False where there will be none.
  nb::object next(int64_t timeout_ns) {
    rta_batch batch;
    int code;
    {
      const nb::gil_scoped_release release;
      code = rta_batcher_next(core_, timeout_ns, &batch);
    }
    if (code == 0) return nb::none();
    if (code < 0) return nb::bool_(false);
    const auto copied = [&](Kind kind, const void* from, size_t each) {
      void* data;
      nb::object made = side_->fresh(kind, batch.count, data);
      std::memcpy(data, from, static_cast<size_t>(batch.count) * each);
      return made;
    };
    nb::object all = nb::make_tuple(copied(Kind::kLongs, batch.streams, sizeof(int64_t)),
                                    copied(Kind::kYs, batch.y, side_->out_bytes), copied(Kind::kBytes, batch.status, 1),
                                    copied(Kind::kLongs, batch.stamps_ns, sizeof(int64_t)));
    return all;
  }

  // Which of them the workers' turn was (Workers.turn).
  int64_t address() const { return reinterpret_cast<int64_t>(core_); }

  // After the caller is done with it: until then it counts as one of the results that wait.
  void give_back() { rta_batcher_give_back(core_); }

  // As rta_batcher_reset, rta_batcher_remove and rta_batcher_add.
  int reset(int64_t stream) { return rta_batcher_reset(core_, stream); }
  int remove(int64_t stream) { return rta_batcher_remove(core_, stream); }
  int add(int64_t stream) { return rta_batcher_add(core_, stream); }

  int64_t turn(int64_t now, int64_t took) { return rta_batcher_turn(core_, now, took); }

  nb::dict stats() const {
    auto s = std::make_unique<rta_batcher_stats>();
    rta_batcher_statistics(core_, s.get());
    nb::dict d;
    const std::pair<const char*, int64_t> counts[] = {
        {"put", s->put},           {"full", s->full},       {"ok", s->ok},           {"late", s->late},
        {"replaced", s->replaced}, {"dropped", s->dropped}, {"refused", s->failed},  {"batches", s->batches},
        {"waiting", s->waiting},   {"overran", s->overran}, {"held_up", s->held_up},
    };
    for (const auto& [name, value] : counts) d[name] = value;
    d["cost_us"] = nb::make_tuple(s->cost_a_ns * 1e-3, s->cost_b_ns * 1e-3, s->cost_margin_ns * 1e-3);
    d["overran_us"] = static_cast<double>(s->overran_ns) * 1e-3;
    d["held_up_us"] = static_cast<double>(s->held_up_ns) * 1e-3;
    d["batch"] = histogram(s->batch);
    d["queue"] = histogram(s->queue_ns);
    d["lateness"] = histogram(s->lateness_ns);
    d["took"] = histogram(s->batch_took_ns);
    return d;
  }

 private:
  static Port port(nb::tuple given) {
    return {nb::cast<std::string>(given[0]), nb::cast<std::vector<int64_t>>(given[1])};
  }

  // As those of a loop (bindings/realtime/loop_stats.cc), so that one class of Python reads both.
  static nb::dict histogram(const rta_loop_histogram& h) {
    nb::dict d;
    nb::list filled;
    int64_t all = 0;
    for (int b = 0; b < RTA_LOOP_BUCKETS; ++b)
      if (h.counts[b]) {
        filled.append(nb::make_tuple(rta_loop_bucket_end(b), h.counts[b]));
        all += h.counts[b];
      }
    d["n"] = all;
    d["max_ns"] = h.max_ns;
    d["sum_ns"] = h.sum_ns;
    d["p50_ns"] = rta_loop_quantile(&h, 0.5);
    d["p99_ns"] = rta_loop_quantile(&h, 0.99);
    d["p999_ns"] = rta_loop_quantile(&h, 0.999);
    d["buckets"] = filled;
    return d;
  }

  void hold(bool on) {
    if (held_ && !on) *side_->looped = false;
    held_ = on;
  }

  nb::object kept_, workers_;
  std::unique_ptr<Side> side_;
  rta_batcher* core_ = nullptr;
  bool held_ = false;
};

}  // namespace

void add_batcher(nb::module_& m) {
  add_workers(m);
  add_door(m);
  nb::class_<Batcher>(m, "Batcher", "The native side of rtaccel.StreamBatcher.")
      .def(nb::init<nb::object, nb::tuple, nb::tuple, nb::dict>(), nb::arg("plan"), nb::arg("x"), nb::arg("y"),
           nb::arg("settings"))
      .def("start", &Batcher::start)
      .def("stop", &Batcher::stop)
      .def("wait_stopped", &Batcher::wait_stopped)
      .def("put", &Batcher::put)
      .def("put_many", &Batcher::put_many)
      .def("wait", &Batcher::wait)
      .def("take", &Batcher::take)
      .def("leave", &Batcher::leave)
      .def("next", &Batcher::next)
      .def("give_back", &Batcher::give_back)
      .def("reset", &Batcher::reset)
      .def("remove", &Batcher::remove)
      .def("add", &Batcher::add)
      .def("turn", &Batcher::turn)
      .def("address", &Batcher::address)
      .def("stats", &Batcher::stats);
  m.attr("BATCHER_UNFIT") = kUnfit;
  m.attr("BATCHER_NOW") = RTA_STAMP_NOW;
}

}  // namespace rta_torch
