#include "bindings/batcher/batcher.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings/plan.h"
#include "rta_batcher.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

constexpr int64_t kUnfit = INT64_MIN;  // of put: the tensor needs a closer look

// A batcher with its plan, which refuses other calls while the worker runs. Ports: (dtype, shape) of one stream.
class Batcher {
 public:
  using Port = std::pair<std::string, std::vector<int64_t>>;

  Batcher(nb::object plan, nb::tuple x, nb::tuple y, nb::dict d)
      : kept_(plan), plan_(nb::cast<Plan*>(plan)), x_(spec(x, 0)), xs_(spec(x, 1)), y_(spec(y, 0)), ys_(spec(y, 1)) {
    const auto get = [&](const char* key) { return nb::cast<int64_t>(d[key]); };
    rta_batcher_config c = {};
    c.plan = plan_->core();
    c.streams = plan_->state_samples();
    c.in_bytes = static_cast<size_t>(x_.width() * x_.dtype.bytes);
    c.out_bytes = static_cast<size_t>(y_.width() * y_.dtype.bytes);
    const auto [in, out] = plan_->single(1);
    if (in != c.in_bytes || out != c.out_bytes) throw nb::value_error("a plan with several inputs or outputs");
    c.deadline_ns = get("deadline_ns");
    c.max_batch = get("max_batch");
    c.tickets = get("tickets");
    c.spin_ns = get("spin_ns");
    c.late = static_cast<int>(get("late"));
    c.cpu = static_cast<int>(get("cpu"));
    c.manual = static_cast<int>(get("manual"));
    streams_ = c.streams;
    out_bytes_ = c.out_bytes;
    in_bytes_ = c.in_bytes;
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
    if (plan_->looped.exchange(true)) throw nb::value_error("a loop or another batcher runs this model");
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
    dlpack::Tensor t;
    int64_t rows;
    if (!view(x.ptr(), x_, t, rows)) return kUnfit;
    return rta_batcher_put(core_, stream, t.data, stamp);
  }

  // What each row came to, as put gives it; None: the tensors need a closer look. stamps: int64 [n], or a single one.
  nb::object put_many(nb::handle streams, nb::handle x, nb::handle stamps) {
    static const Spec kList{dtype_of("int64"), 1, {}, {}};
    dlpack::Tensor list, values, times;
    int64_t n, rows, count;
    if (!view(streams.ptr(), kList, list, n) || !view(x.ptr(), xs_, values, rows) || rows != n) return nb::none();
    const bool each = !nb::isinstance<nb::int_>(stamps);
    if (each && (!view(stamps.ptr(), kList, times, count) || count != n)) return nb::none();
    const int64_t stamp = each ? 0 : nb::cast<int64_t>(stamps);
    void* data;
    nb::object codes = fresh(kList, &n, data);
    auto* code = static_cast<int64_t*>(data);
    {
      const nb::gil_scoped_release release;
      const auto* from = static_cast<const char*>(values.data);
      for (int64_t i = 0; i < n; ++i)
        code[i] =
            rta_batcher_put(core_, static_cast<const int64_t*>(list.data)[i], from + static_cast<size_t>(i) * in_bytes_,
                            each ? static_cast<const int64_t*>(times.data)[i] : stamp);
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
    nb::object y = fresh(y_, nullptr, data);
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
    static const Spec kLongs{dtype_of("int64"), 1, {}, {}}, kBytes{dtype_of("uint8"), 1, {}, {}};
    const auto copied = [&](const Spec& spec, const void* from, size_t each) {
      void* data;
      nb::object made = fresh(spec, &batch.count, data);
      std::memcpy(data, from, static_cast<size_t>(batch.count) * each);
      return made;
    };
    nb::object all = nb::make_tuple(copied(kLongs, batch.streams, sizeof(int64_t)), copied(ys_, batch.y, out_bytes_),
                                    copied(kBytes, batch.status, 1), copied(kLongs, batch.stamps_ns, sizeof(int64_t)));
    return all;
  }

  // After the caller is done with it: until then it counts as one of the results that wait.
  void give_back() { rta_batcher_give_back(core_); }

  int64_t turn(int64_t now, int64_t took) { return rta_batcher_turn(core_, now, took); }

  nb::dict stats() const {
    auto s = std::make_unique<rta_batcher_stats>();
    rta_batcher_statistics(core_, s.get());
    nb::dict d;
    const std::pair<const char*, int64_t> counts[] = {
        {"put", s->put},        {"full", s->full},         {"ok", s->ok},
        {"late", s->late},      {"replaced", s->replaced}, {"dropped", s->dropped},
        {"refused", s->failed}, {"batches", s->batches},   {"waiting", s->waiting},
    };
    for (const auto& [name, value] : counts) d[name] = value;
    d["cost_us"] = nb::make_tuple(s->cost_a_ns * 1e-3, s->cost_b_ns * 1e-3, s->cost_margin_ns * 1e-3);
    d["batch"] = histogram(s->batch);
    d["queue"] = histogram(s->queue_ns);
    d["lateness"] = histogram(s->lateness_ns);
    d["took"] = histogram(s->batch_took_ns);
    return d;
  }

 private:
  static Spec spec(nb::tuple port, int lead) {
    return {dtype_of(nb::cast<std::string>(port[0])), lead, {}, nb::cast<std::vector<int64_t>>(port[1])};
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
    if (held_ && !on) plan_->looped = false;
    held_ = on;
  }

  nb::object kept_;
  Plan* plan_;
  Spec x_, xs_, y_, ys_;
  int64_t streams_ = 0;
  size_t in_bytes_ = 0, out_bytes_ = 0;
  rta_batcher* core_ = nullptr;
  bool held_ = false;
};

}  // namespace

void add_batcher(nb::module_& m) {
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
      .def("turn", &Batcher::turn)
      .def("stats", &Batcher::stats);
  m.attr("BATCHER_UNFIT") = kUnfit;
  m.attr("BATCHER_NOW") = RTA_STAMP_NOW;
}

}  // namespace rta_torch
