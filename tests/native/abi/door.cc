// rta_door.h under the sanitizers: several clients, each by threads of its own, put through a door while the batcher's
// own callers put too; each put is answered once, clients leave with answers outstanding, and the door closes last.
#include "rta_door.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "native/abi/gru_plan.h"

namespace check {
namespace {

constexpr int kStreams = 40, kWidth = 3, kClients = 3, kRounds = 200;

// Puts for its own streams, and takes each answer but the last ones; what became of them by answer, FULL last.
void caller(const std::string& name, int number, std::atomic<int64_t>* counts, std::atomic<int>* wrong) {
  rta_door_client* const client = rta_door_connect(name.c_str());
  if (!client) {
    wrong->fetch_add(1000);
    return;
  }
  std::vector<int64_t> streams, handles;
  for (int64_t s = number; s < kStreams; s += kClients) streams.push_back(s);
  handles.resize(streams.size());
  const std::vector<float> x(streams.size() * kWidth, 0.25F);
  for (int round = 0; round < kRounds; ++round) {
    rta_door_put(client, static_cast<int64_t>(streams.size()), streams.data(), x.data(), nullptr, handles.data());
    for (const int64_t handle : handles) {
      if (handle == RTA_PUT_FULL) {
        counts[RTA_ANSWER_REFUSED + 1].fetch_add(1);
        continue;
      }
      if (round + 1 == kRounds) {
        rta_door_forget(client, handle);
        continue;
      }
      float y[kWidth];
      int64_t late = 0;
      const bool there = rta_door_wait(client, handle, 60'000'000'000) == 1;
      const int status = there ? rta_door_take(client, handle, y, &late) : RTA_DOOR_BAD;
      const bool honest = (status == RTA_ANSWER_OK && late <= 0) || (status == RTA_ANSWER_LATE && late > 0) ||
                          status == RTA_ANSWER_REPLACED;
      if (!honest || rta_door_take(client, handle, y, &late) != RTA_DOOR_BAD) wrong->fetch_add(1);
      if (honest) counts[status].fetch_add(1);
    }
  }
  rta_door_leave(client);
}

// A door that was not opened, and a client that did not connect.
void check_none(Report& report) {
  report.expect(!rta_door_open(nullptr) && *rta_batcher_error_text(), "a door without a config");
  const rta_door_config nobody = {};
  report.expect(!rta_door_open(&nobody) && !rta_door_connect(nullptr), "without a batcher, without a name");
  rta_door_stats seen = {7, 7, 7, 7, 7, 7};
  rta_door_statistics(nullptr, &seen);
  report.expect(!seen.put && !seen.refused && !seen.answered && !seen.late_at_door && !seen.died && !seen.clients,
                "counts of a door");
  report.expect(!rta_door_described(nullptr), "what clients are told");
  int64_t streams = 7, late = 7, handles[3] = {7, 7, 7};
  size_t in_bytes = 7, out_bytes = 7;
  rta_door_sizes(nullptr, &streams, &in_bytes, &out_bytes);
  report.expect(streams == 0 && in_bytes == 0 && out_bytes == 0, "sizes");
  const int64_t of[2] = {0, 1};
  const float x[2 * kWidth] = {};
  float y[kWidth] = {};
  rta_door_put(nullptr, 2, of, x, nullptr, handles);
  report.expect(handles[0] == RTA_DOOR_BAD && handles[1] == RTA_DOOR_BAD && handles[2] == 7, "puts");
  report.expect(rta_door_wait(nullptr, 0, 0) == RTA_DOOR_BAD, "a wait");
  report.expect(rta_door_take(nullptr, 0, y, &late) == RTA_DOOR_BAD && late == 7, "an answer");
  rta_door_forget(nullptr, 0);
  rta_door_leave(nullptr);
  rta_door_close(nullptr);
}

}  // namespace

void check_door(Report& report) {
  running("door", "", "without a door");
  ++report.cases;
  check_none(report);
  running("door", "", "load");
  ++report.cases;
  Random random(7);
  Plan plan = gru_plan(random, kStreams, kWidth, kWidth);
  if (!plan) return report.expect(false, "a plan: %s", rta_error());
  rta_batcher_config config = {};
  config.plan = plan.get();
  config.streams = kStreams;
  config.in_bytes = config.out_bytes = kWidth * sizeof(float);
  config.deadline_ns = 1'000'000;
  config.max_batch = kStreams;
  config.tickets = 4 * kStreams;
  config.cpu = -1;
  std::unique_ptr<rta_batcher, void (*)(rta_batcher*)> batcher(rta_batcher_create(&config), rta_batcher_destroy);
  if (!batcher || rta_batcher_start(batcher.get()) != 0)
    return report.expect(false, "a batcher: %s", rta_batcher_error_text());
  const std::string name = "native-door-" + std::to_string(getpid());
  rta_door_config asked = {batcher.get(), name.c_str(), kClients, 24, "a note"};
  rta_door* const door = rta_door_open(&asked);
  if (!door) return report.expect(false, "a door: %s", rta_batcher_error_text());
  report.expect(rta_door_open(&asked) == nullptr, "a second door");

  std::atomic<int64_t> counts[RTA_ANSWER_REFUSED + 2] = {};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) threads.emplace_back(caller, name, i, counts, &wrong);
  for (std::thread& t : threads) t.join();
  report.expect(wrong.load() == 0, "%d answers that are wrong", wrong.load());

  rta_batcher_stop(batcher.get());
  while (rta_batcher_wait_stopped(batcher.get(), 1'000'000'000) == 0) {
  }
  rta_door_stats seen = {};
  rta_door_statistics(door, &seen);
  rta_door_close(door);
  rta_batcher_stats stats = {};
  rta_batcher_statistics(batcher.get(), &stats);
  report.expect(stats.put == stats.ok + stats.late + stats.replaced + stats.dropped + stats.failed,
                "puts that became nothing");
  report.expect(seen.put == stats.put, "puts of the door and the batcher differ");
  report.expect(rta_door_connect(name.c_str()) == nullptr, "a door that is closed takes clients");
  const int64_t last = kStreams;  // of each client the last round is not taken
  int64_t known = 0;
  for (const auto& count : counts) known += count.load();
  report.expect(known >= int64_t{kRounds - 1} * kStreams && known <= int64_t{kRounds} * kStreams + last, "%lld answers",
                static_cast<long long>(known));
}

}  // namespace check
