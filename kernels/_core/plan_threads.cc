// What the threads of a plan share: whole blocks of samples where there are enough of them, else the parts of a stage.
// Which of both, and how many parts, follows from estimates when the plan is made; the bits never depend on it, as
// blocks and the tiles within a stage are the same for any number of threads.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "_core/plan.h"

using namespace rta;

namespace {

// What a stage costs at the least: one core reads 190 bytes per ns out of its second-level cache (Xeon Sapphire Rapids,
// 2 MiB, 2026-11), and 30 to 80 from further away.
constexpr int64_t kNearBytesPerNs = 190, kFarBytesPerNs = 80;

struct StagePart {
  const Stage& stage;
  const Run& run;
  const std::vector<Lane>& lanes;
  int parts;
};

}  // namespace

void rta_plan::use_threads(int count) {
  if (finished) fail("the plan is finished");
  if constexpr (!RTA_WANTS_THREADS) {
    if (count != 1) fail("%d threads, where this was built for one", count);
    return;
  }
  std::vector<int> allowed = allowed_cores();
  const int most = std::min(Pool::kMostThreads, static_cast<int>(allowed.size()));
  if (count < 1 || count > most) fail("%d threads, where 1 to %d can run at once", count, most);
  threads = count;
  cores = std::move(allowed);
}

Cut rta_plan::cut_for(int64_t samples) const {
  Cut cut;
  if (samples == 0) {
    cut.parts.assign(stages.size(), 1);
    cut.forks.assign(stages.size(), 1);
    return cut;
  }
  const int64_t rate = weights_exceed_l2() ? kFarBytesPerNs : kNearBytesPerNs;
  for (size_t i = 0; i < stages.size(); ++i) {
    const int64_t moved = read_bytes[i] / rate + row_bytes[i] * samples / kNearBytesPerNs;
    const int64_t cost = std::max(moved, stages[i]->cost_ns(samples));
    const int64_t most = stages[i]->marks_samples() ? 1 : stages[i]->parts(samples);
    const int64_t parts = std::max(int64_t{1}, std::min({int64_t{threads}, most, cost / Pool::kPartNs}));
    int64_t saved = 0;
    cut.forks.push_back(parts == 1 ? stages[i]->forks(samples, threads, &saved) : 1);
    if (cut.forks.back() > 1) cut.saved_ns += saved;
    cut.parts.push_back(static_cast<int>(parts));
    cut.cost_ns += cost;
    if (parts > 1) cut.saved_ns += cost - cost / parts - Pool::kHandOverNs;
  }
  return cut;
}

void rta_plan::plan_threads() {
  if (!RTA_WANTS_THREADS || threads == 1) return;
  bool pays = false;
  for (int64_t samples = 0; samples <= block; ++samples) {
    cuts.push_back(cut_for(samples));
    pays |= cuts.back().saved_ns > 0;
  }
  pays |= cuts.back().cost_ns >= Pool::kPartNs;  // many blocks
  if (pays) pool.reset(new Pool(threads - 1, cores));
}

// Blocks that each thread takes as a whole; 0 where the batch is not shared so.
int64_t rta_plan::blocks_each(int64_t samples) const {
  const int64_t each = ((samples + block - 1) / block) / threads;
  return each * cuts.back().cost_ns >= Pool::kPartNs ? each : 0;
}

int rta_plan::parts(int stage, int64_t samples) const {
  if (!shares()) return 1;
  if (stage < 0) return blocks_each(samples) ? threads : 1;
  const Cut& cut = cuts[static_cast<size_t>(std::min(samples, block))];
  const auto at = static_cast<size_t>(stage);
  return std::max(cut.parts[at], cut.forks[at]);
}

void rta_plan::run_threaded(const void* const* in, void* const* out, int64_t samples) {
  const int64_t each = blocks_each(samples), shared = std::min(samples, each * threads * block);
  const Cut &whole = cuts.back(), &last = cuts[static_cast<size_t>((samples - shared) % block)];
  const int64_t saved =
      each * (threads - 1) * whole.cost_ns + (samples - shared) / block * whole.saved_ns + last.saved_ns;
  const bool together = saved > 0 && !pool->forked() && pool->ready(saved);
  int64_t first = 0;
  if (together && each) {
    run_lanes(in, out, samples, each);
    first = shared;
  }
  for (; first < samples; first += block) {
    const int64_t now = std::min(block, samples - first);
    run_block(lanes[0], in, out, first, now, together ? &cuts[static_cast<size_t>(now)] : nullptr, Unmarked{});
  }
  if (saved > 0) pool->done();
}

void rta_plan::run_lanes(const void* const* in, void* const* out, int64_t samples, int64_t each) {
  const auto lane = [this, in, out, samples, each](int part) {
    const int64_t step = each * block, end = std::min(samples, (part + 1) * step);
    for (int64_t first = part * step; first < end; first += block)
      run_block(lanes[static_cast<size_t>(part)], in, out, first, std::min(block, end - first), nullptr, Unmarked{});
  };
  pool->run([](const void* job, int part) { (*static_cast<const decltype(lane)*>(job))(part); }, &lane, threads);
}

void rta_plan::run_stage(const Stage& stage, const Run& run, int parts, int forks) {
  if (RTA_WANTS_THREADS && forks > 1) {
    Run own = run;
    own.pool = pool.get();
    own.forks = forks;
    return stage.run(own);
  }
  if (!RTA_WANTS_THREADS || parts == 1) return stage.run(run);
  const StagePart job{stage, run, lanes, parts};
  const auto one = [](const void* context, int part) {
    const StagePart& all = *static_cast<const StagePart*>(context);
    Run own = all.run;
    own.part = part;
    own.parts = all.parts;
    own.scratch = all.lanes[static_cast<size_t>(part)].scratch;
    all.stage.run(own);
  };
  pool->run(one, &job, parts);
}

int64_t rta_plan::prefault() {
  if (!finished) fail("the plan is not finished");
  if (shares()) {
    const Within within(region);
    if (pool->forked()) pool.reset(new Pool(threads - 1, cores));
    if (const int error = pool->take_schedule()) fail("scheduling policy of threads: %s", std::strerror(error));
  }
  return static_cast<int64_t>(weights->populate(false) + scratch->populate(true) + state->populate(true) + read_kept());
}

// One byte of each page; Linux has them all in reach then.
size_t rta_plan::read_kept() const {
  const auto* start = static_cast<const volatile char*>(kept_start);
  constexpr size_t kPage = 4096;
  for (size_t at = 0; at < kept_bytes; at += kPage) static_cast<void>(start[at]);
  return kept_bytes;
}

bool rta_plan::lock() {
  if (!finished) fail("the plan is not finished");
  return weights->lock() && scratch->lock() && state->lock() && (!kept_bytes || mlock(kept_start, kept_bytes) == 0);
}
