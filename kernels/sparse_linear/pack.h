// Sparse weights as the core gets them, and what they are packed into: compiled once, for any CPU.
#pragma once

#include "_core/stage.h"

namespace rta {

// Rows of ascending columns (CSR): row n holds entries starts[n] .. starts[n + 1] - 1. Read from the attributes weight
// (the values), columns and row_starts; fails where they are no such rows. Of a stage that does not pack, only how many
// there are: nothing else of them is read.
struct SparseRows {
  int64_t n, k;
  const int32_t *starts = nullptr, *columns = nullptr;
  const char* values = nullptr;
  int size;  // bytes of a value

  explicit SparseRows(const StageSpec& spec);
};

// A tile is 4 vectors of outputs: the epilogue works on it as one.
constexpr int kTile = 4;

// How a kernel reads windows. A step takes up to `slots` entries of each row of `together` vectors of `lanes` rows, all
// of them with columns in start .. start + window - 1. The stream is pairs: a step of two vectors that are taken
// together, or two steps of one vector, of which the last may be empty. A pair lies in memory as
//     int8     values, indices of one half, then of the other: each [slots / group][lane][group] bytes
//     float32  values [half][slot][lane], then indices [lane][half][slot] in bytes
struct WindowForm {
  int lanes, slots, group;
  int window;        // at most 256: an index is a byte
  int64_t align;     // of starts
  int64_t readable;  // starts are at most readable - window (or 0); 0 where only columns of entries are read
  int together;      // 1, or 2 for whichever is cheaper
  bool sorted;       // rows may change places inside a tile, so that the rows of a vector have about as many entries
};

struct Windows {
  const char* stream;
  const uint16_t* starts;  // of each step: one or two of a pair
  int together;            // 1 or 2 vectors are a unit
  const int64_t* ends;     // the pairs of unit u, vectors u * together and on, are ends[u] .. ends[u + 1] - 1
  const uint8_t* from;  // [tiles][4 * lanes], where rows are sorted: the place in its tile that output i is computed at
};

// What the sizes of packed weights follow from; 64 bytes in front of them.
struct SparseHead {
  enum Form : int64_t { kWindows = 1, kWords = 2, kGroups = 3 };
  int64_t form;
  int64_t together;  // vectors of a unit; of groups, 4 where a step is four of them, else 1
  int64_t count;     // pairs, steps
};

// Whether the weights that are there already were packed as that.
bool is_there_as(const StageSpec& spec, SparseHead::Form form);

// Packs, or reads what is there already. That may be anything: whatever leads to a place is looked at, and fails where
// the place is outside.
Windows pack_windows(const StageSpec& spec, const SparseRows& rows, const WindowForm& form);

// How many of the steps there are: what a kernel weighs against another form.
int64_t count_windows(const SparseRows& rows, const WindowForm& form);

constexpr int kWord = 4, kWordHalves = 2;  // bytes of a word, halves of a step

// Windows over words of 32 bits: a float32 entry, or 4 neighboring columns of int8 of which any has an entry. A unit
// of `together` vectors, 4, 2 or 1, shares them; a step takes up to 8 / together words of each of its outputs. In
// memory it is two halves, each of four words of a lane, the vectors of one slot before the next: values [word][lane],
// and indices, bytes [lane / 4][word][lane % 4].
struct WordForm {
  int lanes;
  int window;  // words
  int64_t align, readable;
  int together;  // whatever is cheapest
};

struct Words {
  const char* stream;
  const uint16_t* starts;  // of each step, in words
  int together;
  const int64_t* ends;  // the steps of unit u, vectors u * together and on, are ends[u] .. ends[u + 1] - 1
  const uint8_t* from;  // as in Windows
};

int64_t count_words(const SparseRows& rows, const WordForm& form);
Words pack_words(const StageSpec& spec, const SparseRows& rows, const WordForm& form);

// The streams of a block-sparse weight.
struct Groups {
  const char* values;
  const uint16_t* offsets;  // columns
  const int64_t* ends;      // [vectors + 1]
  bool fours;
};

// A step holds [lane][group] values; a group is `group` columns from a multiple of it on. `fours`: a step is four
// groups that follow one another, [4][lane][group]; so where that stores few zeros more.
Groups pack_groups(const StageSpec& spec, const SparseRows& rows, int lanes, int group);

constexpr int kSemiChunk = 32;  // columns

// 2:4: [vector][chunk][4 registers of values, then 1 of positions]; fails where a group has more than two values.
// Positions are two bits, and no two bits lead outside.
const char* pack_semi(const StageSpec& spec, const SparseRows& rows, int lanes, int group);

// The same of float32: [vector][chunk][positions, 32 bits of a row, then 16 registers of values, two of each 4
// columns].
const char* pack_semi_floats(const StageSpec& spec, const SparseRows& rows, int lanes);

// For the files that pack.
template <class T, class N>
T* packed(const StageSpec& spec, N count) {
  return static_cast<T*>(spec.weights(static_cast<size_t>(count) * sizeof(T)));
}
void write_head(const StageSpec& spec, const SparseHead& head);
int64_t readable_columns(const SparseRows& rows);  // of a row of x: of int8, whole 64 exist

// What is there already: packed.cc.
Windows windows_there(const StageSpec& spec, const SparseRows& rows, const WindowForm& form);
Words words_there(const StageSpec& spec, const SparseRows& rows, const WordForm& form);
Groups groups_there(const StageSpec& spec, const SparseRows& rows, int lanes, int group);

}  // namespace rta
