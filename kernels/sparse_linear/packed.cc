// Packed sparse weights that were there already: everything in them that leads to a place is compared with where the
// kernels may read. Values, and indices of a permutation in registers, are numbers that lead nowhere.
#include "sparse_linear/pack.h"

#include <cstring>

namespace rta {
namespace {

constexpr size_t kHead = 64;

[[noreturn]] void outside(const char* what) { fail("sparse_linear: packed weights whose %s lead outside", what); }

// The head, of a form that the kernel takes. count: no more than there are bytes, so that nothing overflows.
SparseHead head_there(const StageSpec& spec, SparseHead::Form form, int most_together) {
  const size_t left = spec.prepacked->left;
  SparseHead head;
  const char* at = static_cast<const char*>(spec.weights(kHead));
  std::memcpy(&head, at, sizeof head);
  for (size_t i = sizeof head; i < kHead; ++i)
    if (at[i]) fail("sparse_linear: packed weights with something behind their head");
  const int64_t t = head.together;
  if (head.form != form || t < 1 || t > most_together || (t & (t - 1)) || head.count < 0 ||
      static_cast<uint64_t>(head.count) > left)
    fail("sparse_linear: packed weights with a head of another form");
  return head;
}

const int64_t* ends_there(const StageSpec& spec, int64_t units, int64_t count) {
  const int64_t* ends = packed<int64_t>(spec, units + 1);
  bool ascend = ends[0] == 0 && ends[units] == count;
  for (int64_t u = 0; u < units; ++u) ascend &= ends[u] <= ends[u + 1];
  if (!ascend) outside("ends");
  return ends;
}

const uint16_t* starts_there(const StageSpec& spec, int64_t count, int64_t most) {
  const uint16_t* starts = packed<uint16_t>(spec, count);
  int64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = starts[i] > largest ? starts[i] : largest;
  if (count && largest > most) outside("starts");
  return starts;
}

const uint8_t* from_there(const StageSpec& spec, int64_t tiles, int64_t width) {
  const uint8_t* from = packed<uint8_t>(spec, tiles * width);
  uint8_t largest = 0;
  for (int64_t i = 0; i < tiles * width; ++i) largest = from[i] > largest ? from[i] : largest;
  if (largest >= width) outside("places");
  return from;
}

int largest_index(const char* indices, int64_t count, int64_t pitch) {
  int largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int index = static_cast<uint8_t>(indices[i * pitch]);
    largest = index > largest ? index : largest;
  }
  return largest;
}

// Where entries are read one by one, each index behind a start is a column. Laid out as WindowForm says.
void check_columns(const Windows& w, const WindowForm& form, const SparseRows& rows, int64_t pairs) {
  const int64_t params = int64_t{form.lanes} * form.slots, pair = 2 * params * (rows.size + 1);
  for (int64_t i = 0; i < pairs; ++i)
    for (int half = 0; half < 2; ++half) {
      const char* at = w.stream + i * pair;
      int most = 0;
      if (rows.size == 1)
        most = largest_index(at + half * 2 * params + params, params, 1);
      else
        for (int slot = 0; slot < form.slots; ++slot) {
          const char* first = at + 2 * params * rows.size + half * form.slots + slot;
          const int found = largest_index(first, form.lanes, 2 * form.slots);
          most = found > most ? found : most;
        }
      const int64_t start = w.starts[w.together == 2 ? i : 2 * i + half];
      if (start + most >= rows.k) outside("indices");
    }
}

}  // namespace

void write_head(const StageSpec& spec, const SparseHead& head) { std::memcpy(spec.weights(kHead), &head, sizeof head); }

bool is_there_as(const StageSpec& spec, SparseHead::Form form) {
  SparseHead head{};
  if (spec.prepacked->left >= kHead) std::memcpy(&head, spec.prepacked->at, sizeof head);
  return head.form == form;
}

int64_t readable_columns(const SparseRows& rows) { return rows.size == 1 ? (rows.k + 63) / 64 * 64 : rows.k; }

Windows windows_there(const StageSpec& spec, const SparseRows& rows, const WindowForm& form) {
  const SparseHead head = head_there(spec, SparseHead::kWindows, form.together);
  const int64_t width = kTile * form.lanes, tiles = (rows.n + width - 1) / width;
  const int64_t params = int64_t{form.lanes} * form.slots, pair = 2 * params * (rows.size + 1);
  Windows w;
  w.together = static_cast<int>(head.together);
  w.ends = ends_there(spec, tiles * kTile / w.together, head.count);
  w.from = form.sorted ? from_there(spec, tiles, width) : nullptr;
  const int64_t most = form.readable > form.window ? form.readable - form.window : 0;
  w.starts = starts_there(spec, head.count * (2 / w.together), form.readable ? most : rows.k - 1);
  w.stream = packed<char>(spec, head.count * pair);
  if (!form.readable) check_columns(w, form, rows, head.count);
  return w;
}

Words words_there(const StageSpec& spec, const SparseRows& rows, const WordForm& form) {
  const SparseHead head = head_there(spec, SparseHead::kWords, form.together);
  const int64_t width = kTile * form.lanes, tiles = (rows.n + width - 1) / width;
  Words w;
  w.together = static_cast<int>(head.together);
  w.ends = ends_there(spec, tiles * kTile / w.together, head.count);
  w.from = from_there(spec, tiles, width);
  w.starts = starts_there(spec, head.count, form.readable - form.window);
  w.stream = packed<char>(spec, head.count * kWordHalves * width * (kWord + 1));
  return w;
}

Groups groups_there(const StageSpec& spec, const SparseRows& rows, int lanes, int group) {
  const SparseHead head = head_there(spec, SparseHead::kGroups, kTile);
  if (head.together == 2) fail("sparse_linear: packed weights with a head of another form");
  const int64_t width = int64_t{kTile} * lanes, vectors = (rows.n + width - 1) / width * kTile;
  const int64_t columns = head.together * group;  // of a step
  Groups g;
  g.fours = head.together == 4;
  g.ends = ends_there(spec, vectors, head.count);
  g.offsets = starts_there(spec, head.count, readable_columns(rows) - columns);
  g.values = packed<char>(spec, head.count * columns * lanes * rows.size);
  return g;
}

}  // namespace rta
