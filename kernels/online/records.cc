#include "online/records.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace rta::online {
namespace {

// How far beyond [low, high], which grows to hold the value; over its width before.
double beyond_range(RecordsStream& s, double value) {
  const double width = s.high - s.low;
  const double by = value > s.high ? value - s.high : value < s.low ? s.low - value : 0.0;
  s.low = std::min(s.low, value);
  s.high = std::max(s.high, value);
  return by > 0 ? by / std::max(width, std::numeric_limits<double>::min()) : 0.0;
}

// For how many samples the size of the deviation from the season is the largest, where that is a new extreme.
uint32_t beyond_season(RecordsStream& s, int slot) {
  auto& [stored, seen] = s.slots[slot];
  const double mean = static_cast<double>(stored);
  const double deviation = seen ? s.level - mean : 0.0;
  const double rate = seen < kRemembered ? 1.0 / ++seen : kLeastRate;
  stored = static_cast<float>(mean + rate * (s.level - mean));
  const uint32_t now = s.seasonal++;
  if (now < kSeasonWarmUp) return 0;
  const uint32_t since = s.seasons.put(s.seasons_size, static_cast<float>(std::fabs(deviation)), now);
  const bool beyond = deviation < s.season_low || deviation > s.season_high;
  s.season_low = std::min(s.season_low, deviation);
  s.season_high = std::max(s.season_high, deviation);
  return beyond ? since : 0;
}

uint32_t beyond_jumps(RecordsStream& s, double value, uint32_t now) {
  const double last = s.last;
  s.last = value;
  s.jump_low -= kShrink * s.jump_low;
  s.jump_high -= kShrink * s.jump_high;
  if (std::isnan(last)) return 0;
  const double jump = value - last;
  const uint32_t since = s.jumps.put(s.jumps_size, static_cast<float>(std::fabs(jump)), now);
  const bool beyond = jump < s.jump_low || jump > s.jump_high;
  s.jump_low = std::min(s.jump_low, jump);
  s.jump_high = std::max(s.jump_high, jump);
  return beyond ? since : 0;
}

}  // namespace

void records_reset(RecordsStream& s) {
  std::memset(&s, 0, sizeof s);
  s.low = std::numeric_limits<double>::infinity();
  s.high = -s.low;
  s.last = std::numeric_limits<double>::quiet_NaN();
}

int records_slot(double seconds) {
  constexpr double kDay = 86400;
  if (!(std::fabs(seconds) < 1e15)) return -1;
  const double day = std::floor(seconds / kDay);
  const int half_hour = std::min(47, static_cast<int>((seconds - day * kDay) / 1800));
  const int64_t weekday = ((static_cast<int64_t>(day) + 4) % 7 + 7) % 7;  // the first of January 1970 was a Thursday
  return half_hour + (weekday == 0 || weekday == 6 ? 48 : 0);
}

double records_score(RecordsStream& s, const RecordsSettings& settings, double value, int slot) {
  if (!(std::fabs(value) < 1e300)) {
    ++s.missing;
    s.last = std::numeric_limits<double>::quiet_NaN();
    return s.last;
  }
  const uint32_t now = s.samples++;
  if (!now) s.low = s.high = value;
  const double range = beyond_range(s, value);
  s.level += kSmoothing * (value - s.level);
  const double season = slot >= 0 ? beyond_season(s, slot) : 0.0;
  const double jump = beyond_jumps(s, value, now);
  if (now < kWarmUp) return 0.0;
  // Most samples have no score: the divisions are left out.
  double score = 0.0;
  if (range > 0) score = range / settings.range;
  if (season > 0) score = std::max(score, season / settings.season);
  if (jump > 0) score = std::max(score, jump / settings.jump);
  return score;
}

}  // namespace rta::online
