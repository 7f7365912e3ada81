// Packing of sparse rows into windows of words that the outputs of a whole tile share: compiled once, for any CPU.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "sparse_linear/pack.h"

namespace rta {
namespace {

struct Word {
  int32_t at;
  char bytes[kWord];
};

// The words of a row that hold an entry, ascending: a float each, or 4 neighboring columns of int8.
std::vector<Word> words_of(const SparseRows& rows, int64_t row) {
  std::vector<Word> words;
  const int32_t columns = kWord / rows.size;  // of a word
  for (int32_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) {
    const int32_t at = rows.columns[i] / columns;
    if (words.empty() || words.back().at != at) words.push_back({at, {}});
    std::memcpy(words.back().bytes + rows.columns[i] % columns * rows.size, rows.values + int64_t{i} * rows.size,
                static_cast<size_t>(rows.size));
  }
  return words;
}

// The words of the rows of a tile, those with most words first where rows of a unit should have about as many.
struct Tile {
  std::vector<std::vector<Word>> rows;
  std::vector<int> place;  // of each row: vector * lanes + lane
};

Tile tile_of(const SparseRows& rows, const WordForm& form, int64_t tile, bool sorted) {
  const int params = kTile * form.lanes;
  const int64_t first = tile * params;
  Tile found;
  for (int64_t row = first; row < first + params; ++row)
    found.rows.push_back(row < rows.n ? words_of(rows, row) : std::vector<Word>());
  std::vector<int> order(static_cast<size_t>(params));
  std::iota(order.begin(), order.end(), 0);
  const auto count = [&](int row) { return found.rows[static_cast<size_t>(row)].size(); };
  if (sorted) std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return count(a) > count(b); });
  found.place.resize(order.size());
  for (int i = 0; i < params; ++i) found.place[static_cast<size_t>(order[static_cast<size_t>(i)])] = i;
  return found;
}

// Calls take(step, start, row, slot, word) for each word of the rows of a unit; the number of steps. A step begins at
// the lowest word that none before has served, rounded down.
template <class Take>
int64_t walk(const Tile& tile, const WordForm& form, int unit, Take take) {
  const int of_unit = form.together * form.lanes, slots = kWordHalves * kTile / form.together;
  std::vector<size_t> members, at;
  for (size_t row = 0; row < tile.rows.size(); ++row)
    if (tile.place[row] / of_unit == unit) members.push_back(row);
  at.resize(members.size());
  for (int64_t step = 0;; ++step) {
    int64_t start = -1;
    for (size_t i = 0; i < members.size(); ++i) {
      const std::vector<Word>& words = tile.rows[members[i]];
      if (at[i] < words.size() && (start < 0 || words[at[i]].at < start)) start = words[at[i]].at;
    }
    if (start < 0) return step;
    start = std::min(start / form.align * form.align, form.readable - form.window);
    for (size_t i = 0; i < members.size(); ++i) {
      const std::vector<Word>& words = tile.rows[members[i]];
      for (int slot = 0; slot < slots && at[i] < words.size(); ++slot, ++at[i]) {
        if (words[at[i]].at >= start + form.window) break;
        take(step, start, members[i], slot, words[at[i]]);
      }
    }
  }
}

int64_t tiles_of(const SparseRows& rows, const WordForm& form) {
  return (rows.n + kTile * form.lanes - 1) / (kTile * form.lanes);
}

constexpr auto kCount = [](int64_t, int64_t, size_t, int, const Word&) {};

// Steps of each unit, summed up.
std::vector<int64_t> count(const SparseRows& rows, const WordForm& form) {
  std::vector<int64_t> ends{0};
  for (int64_t t = 0; t < tiles_of(rows, form); ++t) {
    const Tile tile = tile_of(rows, form, t, form.together < kTile);
    for (int unit = 0; unit < kTile / form.together; ++unit)
      ends.push_back(ends.back() + walk(tile, form, unit, kCount));
  }
  return ends;
}

// The same with as many vectors in a unit as is cheapest. A step takes 23 cycles, the end of a unit some 50 (Zen 4,
// 2026-11).
std::vector<int64_t> cheapest(const SparseRows& rows, WordForm& form) {
  std::vector<int64_t> best;
  int64_t least = 0;
  int together = 0;
  for (form.together = kTile; form.together >= 1; form.together /= 2) {
    std::vector<int64_t> ends = count(rows, form);
    const int64_t cycles = ends.back() * 23 + static_cast<int64_t>(ends.size() - 1) * 50;
    if (together && cycles >= least) continue;
    least = cycles, together = form.together;
    best.swap(ends);
  }
  form.together = together;
  return best;
}

}  // namespace

int64_t count_words(const SparseRows& rows, const WordForm& asked) {
  WordForm form = asked;
  return cheapest(rows, form).back();
}

Words pack_words(const StageSpec& spec, const SparseRows& rows, const WordForm& asked) {
  if (!spec.packs()) return words_there(spec, rows, asked);
  WordForm form = asked;
  const std::vector<int64_t> counted = cheapest(rows, form);
  const int64_t tiles = tiles_of(rows, form), params = int64_t{kTile} * form.lanes;
  const int64_t slot_bytes = params * (kWord + 1);
  write_head(spec, {SparseHead::kWords, form.together, counted.back()});
  int64_t* ends = packed<int64_t>(spec, counted.size());
  std::copy(counted.begin(), counted.end(), ends);
  uint8_t* from = packed<uint8_t>(spec, tiles * params);
  uint16_t* starts = packed<uint16_t>(spec, counted.back());
  char* stream = packed<char>(spec, counted.back() * kWordHalves * slot_bytes);
  const int units = kTile / form.together;
  for (int64_t t = 0; t < tiles; ++t) {
    const Tile tile = tile_of(rows, form, t, form.together < kTile);
    for (int64_t i = 0; i < params; ++i)
      from[t * params + i] = static_cast<uint8_t>(tile.place[static_cast<size_t>(i)]);
    for (int unit = 0; unit < units; ++unit) {
      const int64_t first = ends[t * units + unit];
      walk(tile, form, unit, [&](int64_t step, int64_t start, size_t row, int slot, const Word& word) {
        // A half of a step has four words of each lane: of as many vectors, or of as many slots.
        const int in_unit = tile.place[row] % (form.together * form.lanes), lane = in_unit % form.lanes;
        const int word_of_step = slot * form.together + in_unit / form.lanes;
        const int half = word_of_step / kTile, vector = word_of_step % kTile;
        starts[first + step] = static_cast<uint16_t>(start);
        char* to = stream + ((first + step) * kWordHalves + half) * slot_bytes;
        std::memcpy(to + (vector * form.lanes + lane) * kWord, word.bytes, kWord);
        to[params * kWord + lane / 4 * 16 + vector * 4 + lane % 4] = static_cast<char>(word.at - start);
      });
    }
  }
  return {stream, starts, form.together, ends, from};
}

}  // namespace rta
