// Which stages share packed weights, and where values lie between stages: those that are never needed at once share
// memory. Less of it is touched, so a small network stays in the first-level cache, and after a cold start fewer lines
// are fetched only to be written over.
#include <algorithm>
#include <cstring>

#include "_core/plan.h"

namespace rta {

Prepacked joined(const std::vector<PackedPart>& all, size_t from) {
  if (from == all.size()) return {nullptr, 0};
  size_t bytes = 0;
  for (size_t i = from; i < all.size(); ++i) {
    if (all[i].start != all[from].start + bytes) return {nullptr, 0};
    bytes += all[i].bytes;
  }
  return {all[from].start, bytes};
}

const char* SharedWeights::find_or_add(const Prepacked& packed) {
  const auto order = [](const Prepacked& a, const Prepacked& b) {
    if (a.left != b.left) return a.left < b.left ? -1 : 1;
    return std::memcmp(a.at, b.at, a.left);
  };
  const auto place = std::lower_bound(all_.begin(), all_.end(), packed,
                                      [&](const Prepacked& a, const Prepacked& b) { return order(a, b) < 0; });
  if (place != all_.end() && order(*place, packed) == 0) return place->at;
  all_.insert(place, packed);
  return nullptr;
}

}  // namespace rta

using namespace rta;

// Notes that a stage reads or writes a value.
void rta_plan::touch(int id, int stage) {
  Span& span = spans[static_cast<size_t>(id)];
  span.first = std::min(span.first, roles[id] == RTA_INPUT ? -1 : stage);
  span.last = std::max(span.last, roles[id] == RTA_OUTPUT ? kAfterAll : stage);
  if (columns[static_cast<size_t>(id)].of >= 0) touch(columns[static_cast<size_t>(id)].of, stage);
}

// Whether a value between stages is some columns of another one, from a cache line on. It is seen there from now on.
bool rta_plan::see_columns(const Stage& stage, int in, int out) {
  const int64_t at = stage.columns_at();
  if (at < 0 || at % 64 || roles[in] != RTA_INNER || roles[out] != RTA_INNER) return false;
  const Columns& source = columns[static_cast<size_t>(in)];
  columns[static_cast<size_t>(out)] = {source.of < 0 ? in : source.of, source.at + at};
  values[static_cast<size_t>(out)].pitch = values[static_cast<size_t>(in)].pitch;
  return true;
}

// A result that differs from an input in a part lies where that input lies, if nothing reads the input afterwards: the
// stage leaves the rest as it is. Once all stages are known.
void rta_plan::lie_over() {
  for (const Overlay& overlay : overlays) {
    const int x = overlay.in[0], y = overlay.out, whole = root(x);
    Span& span = spans[static_cast<size_t>(whole)];
    if (roles[whole] != RTA_INNER || roles[y] != RTA_INNER || values[whole].dtype != values[y].dtype) continue;
    if (sample_bytes(whole) != sample_bytes(y) || columns[static_cast<size_t>(x)].at) continue;
    if (span.last != overlay.stage) continue;
    if (std::any_of(overlay.in.begin() + 1, overlay.in.end(), [&](int id) { return root(id) == whole; })) continue;
    for (Columns& other : columns)
      if (other.of == y) other.of = whole;
    columns[static_cast<size_t>(y)] = {whole, 0};
    span.last = std::max(span.last, spans[static_cast<size_t>(y)].last);
  }
}

// Bytes between values in builds with AddressSanitizer, where none share memory: what leaves its value is reported.
constexpr int64_t kWatched = 64;

// By value: its byte in a lane, behind `start`. Returns the bytes of a lane. The largest values are placed first, each
// at the lowest place that is free while it is needed; a stage's inputs and outputs are needed at once.
int64_t rta_plan::lay_out(int64_t start, std::vector<int64_t>& at) const {
  std::vector<int> order;
  order.reserve(values.size());
  for (int id = 0; id < static_cast<int>(values.size()); ++id)
    if (roles[id] != RTA_STATE && staged(id) && columns[static_cast<size_t>(id)].of < 0) order.push_back(id);
  const auto before = [&](int a, int b) {
    return sample_bytes(a) != sample_bytes(b) ? sample_bytes(a) > sample_bytes(b) : a < b;
  };
  std::make_heap(order.begin(), order.end(), before);  // as std::stable_sort by size, in less code
  std::sort_heap(order.begin(), order.end(), before);
  at.assign(values.size(), 0);
  if (is_watched()) {
    int64_t end = start + kWatched;
    for (int id : order) {
      at[id] = end;
      end += sample_bytes(id) * block + kWatched;
    }
    place_columns(at);
    return end;
  }
  int64_t end = start;
  std::vector<int> placed;  // by place
  for (int id : order) {
    const Span& own = spans[static_cast<size_t>(id)];
    const int64_t bytes = sample_bytes(id) * block;
    int64_t free = start;
    for (int other : placed) {
      const Span& span = spans[static_cast<size_t>(other)];
      if (own.first > span.last || span.first > own.last) continue;
      if (free + bytes <= at[other]) break;
      free = std::max(free, at[other] + sample_bytes(other) * block);
    }
    at[id] = free;
    end = std::max(end, free + bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), id, [&](int a, int b) { return at[a] < at[b]; }), id);
  }
  place_columns(at);
  return end;
}

void rta_plan::place_columns(std::vector<int64_t>& at) const {
  for (size_t id = 0; id < values.size(); ++id)
    if (columns[id].of >= 0) at[id] = at[static_cast<size_t>(columns[id].of)] + columns[id].at;
}

// Where nothing may be read or written, in a lane that was laid out so.
void rta_plan::watch_between(char* lane, int64_t start, const std::vector<int64_t>& at) const {
  if (!is_watched()) return;
  watch(lane + start, kWatched);
  for (size_t i = 0; i < values.size(); ++i) {
    const int id = static_cast<int>(i);
    if (roles[i] != RTA_STATE && staged(id) && columns[i].of < 0)
      watch(lane + at[i] + sample_bytes(id) * block, kWatched);
  }
}
