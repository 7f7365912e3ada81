// The inputs of a loop: the newest value of each slot, and how old they are together.
#include <algorithm>

#include "realtime/loop.h"

namespace rta_realtime {

void Inputs::set(rta_latest* const* slots, int count, uint64_t any_age) {
  slots_.assign(slots, slots + count);
  samples_.resize(slots_.size());
  last_seq_.resize(slots_.size());
  data_.resize(slots_.size());
  any_age_ = any_age;
}

void Inputs::take() {
  none_ = is_new_ = false;
  stamp_ = INT64_MAX;
  overwritten_ = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    rta_latest_sample& s = samples_[i];
    rta_latest_take(slots_[i], &s);
    if (s.status == RTA_LATEST_NONE) {
      none_ = true;
      continue;
    }
    data_[i] = s.data;
    if (!(any_age_ >> i & 1)) stamp_ = std::min(stamp_, s.stamp_ns);
    if (s.status != RTA_LATEST_NEW) continue;
    is_new_ = true;
    if (last_seq_[i] && s.seq > last_seq_[i] + 1) overwritten_ += s.seq - last_seq_[i] - 1;
    last_seq_[i] = s.seq;
  }
}

int64_t Inputs::after(int64_t ns) const {
  return std::count_if(samples_.begin(), samples_.end(),
                       [ns](const rta_latest_sample& s) { return s.status == RTA_LATEST_NEW && s.stamp_ns > ns; });
}

}  // namespace rta_realtime
