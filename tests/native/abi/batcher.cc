// rta_batcher.h where there is no batcher, as after a create that failed: puts are told that it has stopped, other
// functions fail with a reason, count nothing or do nothing.
#include "rta_batcher.h"

#include <algorithm>
#include <cstring>

#include "native/harness.h"

namespace check {
namespace {

void check_failures(Report& report) {
  float y[1] = {};
  int64_t late = 0;
  rta_batch batch = {};
  const auto said = [&](const char* what, int code) {
    report.expect(code == -1 && std::strstr(rta_batcher_error_text(), "the batcher is NULL"), "%s gives %d: %s", what,
                  code, rta_batcher_error_text());
    report.expect(!rta_batcher_create(nullptr) && std::strstr(rta_batcher_error_text(), "config"),
                  "a config that is NULL");  // its reason takes the place of this one
  };
  said("start", rta_batcher_start(nullptr));
  said("wait_stopped", rta_batcher_wait_stopped(nullptr, 0));
  said("wait", rta_batcher_wait(nullptr, 0, 0));
  said("take", rta_batcher_take(nullptr, 0, y, &late));
  said("next", rta_batcher_next(nullptr, 0, &batch));
  report.expect(y[0] == 0 && late == 0 && batch.count == 0, "something is written");
}

void check_puts(Report& report) {
  const float x[3] = {};
  const int64_t streams[3] = {0, 1, 2};
  int64_t codes[4] = {7, 7, 7, 7};
  report.expect(rta_batcher_put(nullptr, 0, x, RTA_STAMP_NOW) == RTA_PUT_STOPPED, "a put");
  rta_batcher_put_many(nullptr, 3, streams, x, nullptr, RTA_STAMP_NOW, codes);
  report.expect(std::count(codes, codes + 3, int64_t{RTA_PUT_STOPPED}) == 3 && codes[3] == 7, "three puts");
  for (int (*change)(rta_batcher*, int64_t) : {rta_batcher_reset, rta_batcher_remove, rta_batcher_add})
    report.expect(change(nullptr, 0) == RTA_PUT_STOPPED, "a stream that comes, goes or starts anew");
}

void check_counts(Report& report) {
  rta_batcher_stats stats;
  std::memset(&stats, 0x7f, sizeof stats);
  rta_batcher_statistics(nullptr, &stats);
  const char* const bytes = reinterpret_cast<const char*>(&stats);
  report.expect(std::count(bytes, bytes + sizeof stats, 0) == static_cast<int64_t>(sizeof stats), "statistics");
  report.expect(rta_batcher_turn(nullptr, 1, 1) == 0 && !*rta_batcher_refused(nullptr), "a turn, or what was refused");
}

}  // namespace

void check_batcher(Report& report) {
  running("batcher", "", "without a batcher");
  check_failures(report);
  check_puts(report);
  check_counts(report);
  rta_batcher_leave(nullptr, 0);
  rta_batcher_give_back(nullptr);
  rta_batcher_stop(nullptr);
  rta_batcher_destroy(nullptr);
  ++report.cases;
}

}  // namespace check
