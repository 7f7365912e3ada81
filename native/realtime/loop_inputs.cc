// The inputs of a loop: the newest value of each slot, and how old they are together.
#include <algorithm>

#include "realtime/loop.h"

namespace rta_realtime {

void Inputs::set(rta_latest* const* slots, int count, uint64_t any_age) {
  slots_.assign(slots, slots + count);
  samples_.resize(slots_.size());
  last_seq_.resize(slots_.size());
  before_.resize(slots_.size());
  data_.resize(slots_.size());
  any_age_ = any_age;
}

void Inputs::look() {
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
    if (s.seq == last_seq_[i]) continue;
    is_new_ = true;
    if (last_seq_[i] && s.seq > last_seq_[i] + 1) overwritten_ += s.seq - last_seq_[i] - 1;
  }
}

void Inputs::take() {
  before_ = last_seq_;
  look();
  for (size_t i = 0; i < slots_.size(); ++i)
    if (samples_[i].status != RTA_LATEST_NONE) last_seq_[i] = samples_[i].seq;
}

int64_t Inputs::after(int64_t ns) const {
  int64_t found = 0;
  for (size_t i = 0; i < samples_.size(); ++i)
    found += samples_[i].status != RTA_LATEST_NONE && last_seq_[i] != before_[i] && samples_[i].stamp_ns > ns;
  return found;
}

}  // namespace rta_realtime
