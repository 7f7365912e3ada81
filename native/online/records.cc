// The C ABI of the detector of anomalies (rta_online.h).
#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "online/records.h"
#include "rta_online.h"

using namespace rta::online;

constexpr size_t kAhead = 8;

struct rta_records {
  RecordsSettings settings;
  std::vector<RecordsStream> streams;
};

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_records* rta_records_create(int64_t streams, double range, double season, double jump) {
  const auto positive = [](double v) { return v > 0 && v < 1e300; };
  if (streams < 1 || streams > (int64_t{1} << 32) || !positive(range) || !positive(season) || !positive(jump))
    return nullptr;
  try {
    rta_records* records = new rta_records{{range, season, jump}, {}};
    try {
      records->streams.resize(static_cast<size_t>(streams));
    } catch (...) {
      delete records;
      throw;
    }
    for (RecordsStream& stream : records->streams) records_reset(stream);
    return records;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

RTA_API void rta_records_destroy(rta_records* records) { delete records; }

RTA_API void rta_records_score(rta_records* records, const double* values, double seconds, double* scores) {
  if (!records) return;
  const int slot = records_slot(seconds);
  const size_t count = records->streams.size();
  RecordsStream* streams = records->streams.data();
  for (size_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {  // streams are far apart: what comes next is asked for ahead
      const RecordsStream& next = streams[i + kAhead];
      __builtin_prefetch(&next, 1);
      __builtin_prefetch(reinterpret_cast<const char*>(&next) + 64, 1);
      if (slot >= 0) __builtin_prefetch(&next.slots[slot], 1);
      __builtin_prefetch(&next.seasons, 1);
      __builtin_prefetch(&next.jumps, 1);
    }
    scores[i] = records_score(streams[i], records->settings, values[i], slot);
  }
}

RTA_API void rta_records_series(rta_records* records, int64_t stream, const double* values, const double* seconds,
                                int64_t count, double* scores) {
  if (!records) [[unlikely]] {
    std::fill_n(scores, count, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  RecordsStream& s = records->streams[static_cast<size_t>(stream)];
  for (int64_t i = 0; i < count; ++i)
    scores[i] = records_score(s, records->settings, values[i], seconds ? records_slot(seconds[i]) : -1);
}

RTA_API void rta_records_reset(rta_records* records, int64_t first, int64_t count) {
  if (!records) return;
  for (int64_t i = first; i < first + count; ++i) records_reset(records->streams[static_cast<size_t>(i)]);
}

RTA_API int64_t rta_records_missing(const rta_records* records, int64_t stream) {
  return records ? records->streams[static_cast<size_t>(stream)].missing : 0;
}

RTA_API size_t rta_records_stream_bytes(void) { return sizeof(RecordsStream); }

RTA_API void rta_records_save(const rta_records* records, void* bytes) {
  if (!records) return;
  std::memcpy(bytes, records->streams.data(), records->streams.size() * sizeof(RecordsStream));
}

RTA_API int rta_records_load(rta_records* records, const void* bytes) {
  if (!records) return RTA_ONLINE_INVALID;
  const char* from = static_cast<const char*>(bytes);
  for (size_t i = 0; i < records->streams.size(); ++i) {
    RecordsStream s;
    std::memcpy(&s, from + i * sizeof s, sizeof s);
    if (s.seasons_size > RecordStack::kMax || s.jumps_size > RecordStack::kMax) return RTA_ONLINE_INVALID;
  }
  std::memcpy(records->streams.data(), bytes, records->streams.size() * sizeof(RecordsStream));
  return RTA_ONLINE_OK;
}
}
