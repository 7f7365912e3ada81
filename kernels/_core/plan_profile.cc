// Time by stage, from the processor's own counter. A path of its own: calls that are not profiled have no marks in
// them.
#include <time.h>

#include <algorithm>

#include "_core/plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace rta;

namespace {

int64_t clock_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec;
}

// Read when everything before is done, and before anything after has begun: stages that overlap in the processor would
// be given each other's time.
int64_t ticks_now() {
#if defined(__x86_64__)
  _mm_lfence();
  const int64_t now = static_cast<int64_t>(__rdtsc());
  _mm_lfence();
  return now;
#elif defined(__aarch64__)
  int64_t now;
  asm volatile("isb\n mrs %0, cntvct_el0\n isb" : "=r"(now)::"memory");
  return now;
#else
  return clock_ns();
#endif
}

}  // namespace

void Marks::operator()(size_t part) {
  const int64_t now = ticks_now();
  ticks[part] += now - last;
  last = now;
}

// Returns ns per tick, by the system's clock over the whole of the calls.
double rta_plan::profile(const void* const* in, void* const* out, int64_t samples, int64_t calls, int64_t* ticks) {
  if (!finished) fail("the plan is not finished");
  if (samples < 1 || calls < 1) fail("a profile takes samples and calls");
  const size_t parts = stages.size() + 2;
  // Threads as in run_threaded, but for samples that they would take as a whole: a stage would have several times at
  // once.
  const bool cut_stages =
      shares() && blocks_each(samples) == 0 &&
      samples / block * cuts.back().saved_ns + cuts[static_cast<size_t>(samples % block)].saved_ns > 0;
  const int64_t start_ns = clock_ns(), start = ticks_now();
  for (int64_t call = 0; call < calls; ++call) {
    int64_t* row = ticks + call * static_cast<int64_t>(parts + 2);
    std::fill(row, row + parts + 2, int64_t{0});
    const bool together = cut_stages && !pool->forked() && pool->ready(Pool::kAnswerNs);
    Marks marks{row, ticks_now()};
    if (checks) check(in, samples);
    for (int64_t first = 0; first < samples; first += block) {
      const int64_t now = std::min(block, samples - first);
      run_block(lanes[0], in, out, first, now, together ? &cuts[static_cast<size_t>(now)] : nullptr, marks);
    }
    if (together) pool->done();
    ++tick;

    const int64_t before = ticks_now();
    if (checks) check(in, samples);
    run(in, out, samples);
    const int64_t after = ticks_now(), again = ticks_now();
    row[parts] = after - before;
    row[parts + 1] = again - after;
  }
  const int64_t passed = ticks_now() - start, passed_ns = clock_ns() - start_ns;
  if (passed <= 0 || passed_ns <= 0)
    fail("a clock stood still: %lld ticks in %lld ns", static_cast<long long>(passed),
         static_cast<long long>(passed_ns));
  return static_cast<double>(passed_ns) / static_cast<double>(passed);
}
