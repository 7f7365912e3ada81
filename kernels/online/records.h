// A detector of anomalies for many streams: how far, and for how long, a value is beyond what was there before.
//
// Three scores over their thresholds, the largest counts:
//   range    how far the value leaves [low, high] of all values so far, over high - low
//   season   the EWMA of the value minus the mean of that at this half hour of the day, working days and weekends
//   apart; where
//            that is a new extreme: for how many samples its size is the largest
//   jump     the difference to the value before, where it is beyond the range of differences, which shrinks slowly: for
//            how many samples its size is the largest
// "For how many samples" is answered by a stack of records: each value smaller than the one below it.
#pragma once

#include <cmath>
#include <cstdint>

namespace rta::online {

// Samples at which a value was the largest since. The bottom is the largest of all.
struct RecordStack {
  static constexpr int kMax = 32;
  struct Record {
    float value;
    uint32_t at;
  };
  Record records[kMax];

  // How many of a stack of at most kFew are not below v. All are looked at: where the loop would end is a guess.
  static constexpr int kFew = 8;
  uint8_t few_not_below(uint8_t size, float v) const {
    int count = 0;
    for (int i = 0; i < kFew; ++i) count += (records[i].value >= v) & (i < size);
    return static_cast<uint8_t>(count);
  }

  // Puts a value at sample `now`; for how many samples it is the largest (now + 1: of all). Where the stack is full the
  // value below stands for both, at the later time: the answer may become smaller, never larger.
  uint32_t put(uint8_t& size, float v, uint32_t now) {
    size = size <= kFew ? few_not_below(size, v) : size;
    while (size && records[size - 1].value < v) --size;
    const uint32_t since = size ? now - records[size - 1].at : now + 1;
    if (size && (records[size - 1].value == v || size == kMax)) {
      records[size - 1].at = now;
    } else {
      records[size++] = {v, now};
    }
    return since;
  }
};

struct RecordsSettings {
  double range, season, jump;
};

constexpr int kSlots = 96;        // half hours of a working day, then of a weekend's
constexpr uint32_t kWarmUp = 40;  // samples before any score
// Samples before the season's records begin. The level starts at 0: what is left of the start by then, 0.6 % of the
// level, is the least that a record must exceed.
constexpr uint32_t kSeasonWarmUp = 100;
constexpr double kShrink = 1e-4, kSmoothing = 1.0 / 20, kLeastRate = 0.1;
constexpr uint32_t kRemembered = 10;  // 1 / kLeastRate

// What is read at every sample stands first: two cache lines.
struct alignas(64) RecordsStream {
  double low, high;  // of all values
  double last;       // NaN after a gap
  double level;      // EWMA of the value
  double season_low, season_high;
  double jump_low, jump_high;
  uint32_t samples, seasonal;  // seen; with a time
  uint32_t missing;
  uint8_t seasons_size, jumps_size;
  struct Season {
    float mean;
    uint32_t seen;  // up to kRemembered
  } slots[kSlots];
  RecordStack seasons, jumps;
};

static_assert(sizeof(RecordsStream) <= 2048);

void records_reset(RecordsStream& stream);

// slot: of the half hour; -1 without a time. NaN where the value is missing.
double records_score(RecordsStream& stream, const RecordsSettings& settings, double value, int slot);

// Of seconds since 1970, as they stand (no time zone); -1 for a time that is not finite.
int records_slot(double seconds);

}  // namespace rta::online
