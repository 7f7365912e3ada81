// Where the elements of an operand of an integer stage lie, as pieces of one step, and how they become int64 and back.
#pragma once

#include <type_traits>

#include "_common/checks.h"
#include "_common/lines.h"
#include "_common/whole_numbers.h"

namespace rta {

// A line goes in blocks of so many elements.
constexpr int64_t kIntegerBlock = 128;
constexpr int kInt8Zero = 128;  // a plan keeps int8 as bytes, this much larger

template <class S>
struct IntegerWalk {
  struct Piece {
    int64_t offset, step, length;  // bytes, bytes, elements
  };
  GraphIO port;
  const char* constant;  // instead of a port
  rta_dtype dtype;
  LineOperand lines;
  int64_t blocks;  // of a line
  const Piece* pieces;
  const int64_t* first;  // the first piece of each block, and the end
  int64_t step;          // from element to element where those of all samples lie in one; -1 where they do not

  // size: elements of a constant.
  void read(const StageSpec& spec, const char* name, int64_t count, int64_t n, int64_t size = 0) {
    lines = read_lines(spec, name, count, n, port, dtype_bytes(dtype), size);
    blocks = (n + kIntegerBlock - 1) / kIntegerBlock;
    const int64_t walked = lines.table ? count : 1;
    int64_t* firsts =
        static_cast<int64_t*>(spec.arena->take(sizeof(int64_t) * static_cast<size_t>(walked * blocks + 1)));
    const int64_t made = cut(walked, n, nullptr, firsts);
    Piece* room = static_cast<Piece*>(spec.arena->take(sizeof(Piece) * static_cast<size_t>(made + 1)));
    cut(walked, n, room, firsts);
    pieces = room;
    first = firsts;
    step = step_of_samples(count, n);
  }

  int64_t step_of_samples(int64_t count, int64_t n) const {
    if (count != 1 || blocks != 1 || first[1] != 1) return -1;
    if (constant) return n == 1 || pieces[0].step == 0 ? 0 : -1;
    const int64_t sample = port.steps * port.pitch;
    return n == 1 || pieces[0].step * n == sample ? sample / n : -1;
  }

  int64_t cut(int64_t walked, int64_t n, Piece* made, int64_t* firsts) const {
    int64_t count = 0, block = 0;
    Piece last = {};
    for (int64_t line = 0; line < walked; ++line)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = lines.table ? lines.at(line, i) : lines.along[i];
        const bool opens = i % kIntegerBlock == 0;
        if (opens) firsts[block++] = count;
        if (!opens && (last.length == 1 || at == last.offset + last.length * last.step)) {
          last.step = last.length == 1 ? at - last.offset : last.step;
          ++last.length;
        } else {
          last = {at, 0, 1};
          ++count;
        }
        if (made) made[count - 1] = last;
      }
    firsts[block] = count;
    return count;
  }

  // Whether a line begins where the sample does, and its elements lie one behind the other.
  bool dense() const { return lines.contiguous && lines.at(0, 0) == 0; }

  char* sample(const Run& run, int64_t s) const {
    return constant ? const_cast<char*>(constant) : port.row(run, s * port.steps);
  }

  // body(bytes from `sample`, step, elements before, elements) for each piece of a block.
  template <class Body>
  void each_piece(int64_t line, int64_t block, Body body) const {
    const int64_t at = lines.table ? line * blocks + block : block;
    const int64_t start = lines.table ? 0 : lines.lines[line];
    int64_t done = 0;
    for (int64_t p = first[at]; p < first[at + 1]; ++p) {
      const Piece& piece = pieces[p];
      body(start + piece.offset, piece.step, done, piece.length);
      done += piece.length;
    }
  }
};

// Elements of one piece as int64.
template <class T, int zero = 0>
static inline void read_piece(const char* from, int64_t step, int64_t n, int64_t* __restrict to) {
  const T* x = reinterpret_cast<const T*>(from);
  const auto whole = [](T v) {
    if constexpr (std::is_same_v<T, float>) return whole_of(v);
    return static_cast<int64_t>(v) - zero;
  };
  if (step == static_cast<int64_t>(sizeof(T))) {
    if constexpr (std::is_same_v<T, float>) return whole_of_all(x, n, to);
    for (int64_t k = 0; k < n; ++k) to[k] = whole(x[k]);
  } else if (step == 0) {
    const int64_t same = whole(*x);
    for (int64_t k = 0; k < n; ++k) to[k] = same;
  } else {
    for (int64_t k = 0; k < n; ++k) to[k] = whole(*reinterpret_cast<const T*>(from + k * step));
  }
}

static inline void read_whole(rta_dtype dtype, const char* from, int64_t step, int64_t n, int64_t* to) {
  switch (dtype) {
    case RTA_INT64: return read_piece<int64_t>(from, step, n, to);
    case RTA_FLOAT32: return read_piece<float>(from, step, n, to);
    case RTA_INT32: return read_piece<int32_t>(from, step, n, to);
    case RTA_INT16: return read_piece<int16_t>(from, step, n, to);
    case RTA_INT8: return read_piece<uint8_t, kInt8Zero>(from, step, n, to);
    default: return read_piece<uint8_t>(from, step, n, to);
  }
}

// The lowest bits of int64, to one piece.
template <class T, int zero = 0>
static inline void write_piece(const int64_t* from, char* at, int64_t step, int64_t n) {
  if (step == static_cast<int64_t>(sizeof(T))) {
    T* __restrict to = reinterpret_cast<T*>(at);
    if constexpr (std::is_same_v<T, float>) return float_of_all(from, n, to);
    for (int64_t k = 0; k < n; ++k) to[k] = static_cast<T>(from[k] + zero);
  } else {
    for (int64_t k = 0; k < n; ++k) *reinterpret_cast<T*>(at + k * step) = static_cast<T>(from[k] + zero);
  }
}

static inline void write_whole(rta_dtype dtype, const int64_t* from, char* at, int64_t step, int64_t n) {
  switch (dtype) {
    case RTA_FLOAT32: return write_piece<float>(from, at, step, n);
    case RTA_INT64: return write_piece<int64_t>(from, at, step, n);
    case RTA_INT32: return write_piece<int32_t>(from, at, step, n);
    case RTA_INT16: return write_piece<int16_t>(from, at, step, n);
    case RTA_INT8: return write_piece<uint8_t, kInt8Zero>(from, at, step, n);
    default: return write_piece<uint8_t>(from, at, step, n);
  }
}

}  // namespace rta
