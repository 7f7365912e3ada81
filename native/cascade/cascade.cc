#include "cascade.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "exit_scores.h"

using namespace rta_cascades;

namespace {

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * int64_t{1000000000} + t.tv_nsec;
}

int run_plan(rta_plan* plan, const void* in, void* out, int64_t samples) {
  return rta_plan_run(plan, &in, &out, samples) == 0 ? 0 : failed("%s", rta_error());
}

Memory memory(int64_t bytes) {
  const auto whole = static_cast<size_t>(std::max<int64_t>(64, (bytes + 63) / 64 * 64));
  auto* place = static_cast<char*>(std::aligned_alloc(64, whole));
  if (place) std::memset(place, 0, whole);  // resident before the first run
  return {place, std::free};
}

}  // namespace

bool rta_cascade::reserve(int64_t rows) {
  if (rows <= max_rows) return true;
  int64_t in_bytes = 0, feature_bytes = 0;
  for (const rta_cascade_stage& s : stages) {
    in_bytes = std::max(in_bytes, s.in_bytes);
    feature_bytes = std::max(feature_bytes, s.out_bytes);
  }
  const auto answer_bytes = width * static_cast<int64_t>(sizeof(float));
  Memory some_inputs = memory(heads ? 0 : rows * in_bytes), some_answers = memory(rows * answer_bytes);
  Memory one = memory(heads ? rows * feature_bytes : 0), two = memory(heads ? rows * feature_bytes : 0);
  if (!some_inputs || !some_answers || !one || !two) return false;
  exits.resize(static_cast<size_t>(rows));
  going.resize(static_cast<size_t>(rows));
  inputs = std::move(some_inputs);
  answers = std::move(some_answers);
  features[0] = std::move(one);
  features[1] = std::move(two);
  max_rows = rows;
  return true;
}

// Answers of the first `count` rows that lie at `in`: all rows of the call, or with heads those that go on.
int rta_cascade::answer(size_t i, const char* in, float* out, int64_t count, int64_t rows) {
  const rta_cascade_stage& s = stages[i];
  if (!heads) return count == rows ? run_plan(s.plan, in, out, rows) : answer_some(i, in, out, count, rows);
  char* made = features[i % 2].get();
  if (const int code = run_plan(s.plan, in, made, count)) return code;
  return run_plan(s.head, made, out, count);
}

// Answers of the rows that go on, where others have left; the input of all of them is at `in`.
int rta_cascade::answer_some(size_t i, const char* in, float* out, int64_t count, int64_t rows) {
  const rta_cascade_stage& s = stages[i];
  const auto row = static_cast<size_t>(width);
  if (s.streams && s.advance) {
    auto* every = reinterpret_cast<float*>(answers.get());
    if (const int code = run_plan(s.plan, in, every, rows)) return code;
    for (int64_t r = 0; r < count; ++r)  // `out` is the same memory: a row moves to an earlier place
      std::memmove(out + r * width, every + going[r] * width, row * sizeof(float));
    return 0;
  }
  const auto bytes = static_cast<size_t>(s.in_bytes);
  for (int64_t r = 0; r < count; ++r) std::memcpy(inputs.get() + r * s.in_bytes, in + going[r] * s.in_bytes, bytes);
  if (!s.streams) return run_plan(s.plan, inputs.get(), out, count);
  const void* from = inputs.get();
  void* to = out;
  return rta_plan_run_some(s.plan, &from, &to, count, going.data()) == 0 ? 0 : failed("%s", rta_error());
}

// A step of a plan for its states alone.
int rta_cascade::advance(size_t i, const char* in, int64_t rows) {
  const rta_cascade_stage& s = stages[i];
  return s.streams && s.advance ? run_plan(s.plan, in, answers.get(), rows) : 0;
}

// How many of the rows go on; -1 where a test ends the run.
int64_t rta_cascade::test(size_t i, const float* y, int64_t count, int64_t rows) {
  const rta_exit& exit = stages[i].exit;
  const int64_t bytes = stages[i].out_bytes;
  char* made = features[i % 2].get();
  int64_t left = 0;
  for (int64_t r = 0; r < count; ++r) {
    float sure = 0;
    if (exit.test == RTA_EXIT_CALL) {
      if (exit.call(exit.self, y + r * width, width, &sure) != 0) return failed("the test of stage %zu failed", i);
    } else if (exit.test != RTA_EXIT_NEVER) {
      sure = score(exit.test, exit.index, y + r * width, width);
    }
    const int64_t row = count == rows ? r : going[r];
    if (exit.test != RTA_EXIT_NEVER && passes(exit, sure)) {
      exits[row] = static_cast<int32_t>(i);
      ++counts[i];
      continue;
    }
    if (heads && left != r) std::memcpy(made + left * bytes, made + r * bytes, static_cast<size_t>(bytes));
    going[left++] = row;
  }
  return left;
}

int rta_cascade::run(const void* given, float* out, int64_t rows, bool through) {
  if (rows < 0 || rows > max_rows)
    return failed("%lld rows, where there is room for %lld", static_cast<long long>(rows),
                  static_cast<long long>(max_rows));
  const auto* in = static_cast<const char*>(given);
  const int64_t start = deadline_ns ? now_ns() : 0;
  int64_t count = rows;
  for (size_t i = 0; i < stages.size() && rows; ++i) {
    const bool last = i + 1 == stages.size();
    if (!count) {
      if (const int code = advance(i, in, rows)) return code;
      continue;
    }
    const bool late_for_it = i && deadline_ns && !through && now_ns() - start + cost_ns[i] > deadline_ns;
    if (late_for_it) {
      for (int64_t r = 0; r < count; ++r) exits[count == rows ? r : going[r]] = static_cast<int32_t>(i - 1);
      counts[i - 1] += count;
      break;
    }
    float* y = count == rows ? out : reinterpret_cast<float*>(answers.get());
    if (const int code = answer(i, heads && i ? features[(i - 1) % 2].get() : in, y, count, rows)) return code;
    if (count != rows)
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(out + going[r] * width, y + r * width, static_cast<size_t>(width) * sizeof(float));
    if (last) {
      for (int64_t r = 0; r < count; ++r) exits[count == rows ? r : going[r]] = static_cast<int32_t>(i);
      counts[i] += through ? 0 : count;
    } else if (!through) {
      count = test(i, y, count, rows);
      if (count < 0) return -1;
    }
  }
  if (deadline_ns && rows && now_ns() - start > deadline_ns) ++late;
  return 0;
}
