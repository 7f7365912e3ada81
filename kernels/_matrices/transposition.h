// A matrix of float32 with rows and columns turned over, by 4 x 4 numbers in vectors of 16 bytes that every CPU has. Of
// 2, 3 or 4 dense rows or columns, as images of few channels are, in one pass over whole vectors.
#pragma once

#include <cstdint>
#include <cstring>

namespace rta {

typedef float Four __attribute__((vector_size(16)));

struct Transposition {
  int64_t rows = 0, columns = 0, x_pitch = 0, y_pitch = 0;  // rows and columns of x; bytes from row to row

  static Four load(const char* from) {
    Four v;
    std::memcpy(&v, from, 16);
    return v;
  }
  static void store(char* to, Four v) { std::memcpy(to, &v, 16); }

  void run(const char* x, char* y) const {
    if (y_pitch == rows * 4) {
      switch (rows) {
        case 2: return weave<2>(x, y);
        case 3: return weave<3>(x, y);
        case 4: return weave<4>(x, y);
        default: break;
      }
    }
    if (x_pitch == columns * 4) {
      switch (columns) {
        case 2: return part<2>(x, y);
        case 3: return part<3>(x, y);
        case 4: return part<4>(x, y);
        default: break;
      }
    }
    const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    const Blocks by = blocks();
    if (by.columns) {
      for (int64_t c = 0; c < whole_columns; c += by.count)
        for (int64_t r = 0; r < whole_rows; r += 4)
          for (int64_t i = c; i < c + by.count && i < whole_columns; i += 4) turn(x, y, r, i);
    } else {
      for (int64_t r = 0; r < whole_rows; r += by.count)
        for (int64_t c = 0; c < whole_columns; c += 4)
          for (int64_t i = r; i < r + by.count && i < whole_rows; i += 4) turn(x, y, i, c);
    }
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
        std::memcpy(y + c * y_pitch + r * 4, x + r * x_pitch + c * 4, 4);
  }

 private:
  static constexpr int64_t kLine = 16;               // numbers
  static constexpr int64_t kPage = 4096, kWays = 8;  // bytes after which the sets of a first cache come again; its ways

  // How many columns of x, or rows, go together.
  struct Blocks {
    bool columns;
    int64_t count;
  };

  // Rows of y that lie a large power of two apart share sets of the first cache. Stores that wait take their lines
  // ahead, so lines were evicted before they were whole, at 10 times the cost. More rows of x at a time stay longer on
  // each row of y, as far as those have sets enough. Else few columns at a time.
  Blocks blocks() const {
    const int64_t x_apart = x_pitch & -x_pitch, y_apart = y_pitch & -y_pitch;
    if (x_pitch >= y_pitch) return {true, y_apart >= kPage ? kLine / 2 : kLine};
    if (y_apart < kPage / 2) return {false, kLine};
    const int64_t room = kWays * kPage / x_apart;
    if (room < 2 * kLine) return {true, kLine / 2};
    return {false, room < 4 * kLine ? room : 4 * kLine};
  }

  // kRows rows become one line that goes round them.
  template <int kRows>
  void weave(const char* x, char* y) const {
    int64_t i = 0;
    for (; i + 4 <= columns; i += 4, y += 16 * kRows) {
      const char* from = x + i * 4;
      const Four a = load(from), b = load(from + x_pitch);
      if constexpr (kRows == 2) {
        store(y, __builtin_shufflevector(a, b, 0, 4, 1, 5));
        store(y + 16, __builtin_shufflevector(a, b, 2, 6, 3, 7));
      } else if constexpr (kRows == 3) {
        const Four c = load(from + 2 * x_pitch);
        const Four first = __builtin_shufflevector(a, b, 0, 4, 1, 5);   // a0 b0 a1 b1
        const Four second = __builtin_shufflevector(b, c, 1, 5, 2, 6);  // b1 c1 b2 c2
        const Four third = __builtin_shufflevector(a, b, 3, 7, 3, 7);   // a3 b3
        store(y, __builtin_shufflevector(first, c, 0, 1, 4, 2));
        store(y + 16, __builtin_shufflevector(second, a, 0, 1, 6, 2));
        store(y + 32, __builtin_shufflevector(third, c, 6, 0, 1, 7));
      } else {
        turn(from, x_pitch, y, 16);
      }
    }
    for (; i < columns; ++i)
      for (int r = 0; r < kRows; ++r, y += 4) std::memcpy(y, x + r * x_pitch + i * 4, 4);
  }

  // The other way: a line goes to kColumns rows.
  template <int kColumns>
  void part(const char* x, char* y) const {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4, x += 16 * kColumns) {
      char* to = y + i * 4;
      if constexpr (kColumns == 4) {
        turn(x, 16, to, y_pitch);
        continue;
      }
      const Four a = load(x), b = load(x + 16);
      if constexpr (kColumns == 2) {
        store(to, __builtin_shufflevector(a, b, 0, 2, 4, 6));
        store(to + y_pitch, __builtin_shufflevector(a, b, 1, 3, 5, 7));
      } else if constexpr (kColumns == 3) {
        const Four c = load(x + 32);
        const Four first = __builtin_shufflevector(a, b, 0, 3, 6, 6),
                   second = __builtin_shufflevector(a, b, 1, 4, 7, 7);
        const Four third = __builtin_shufflevector(a, b, 2, 5, 2, 5);
        store(to, __builtin_shufflevector(first, c, 0, 1, 2, 5));
        store(to + y_pitch, __builtin_shufflevector(second, c, 0, 1, 2, 6));
        store(to + 2 * y_pitch, __builtin_shufflevector(third, c, 0, 1, 4, 7));
      }
    }
    for (; i < rows; ++i)
      for (int c = 0; c < kColumns; ++c, x += 4) std::memcpy(y + c * y_pitch + i * 4, x, 4);
  }

  // 4 x 4 numbers.
  void turn(const char* x, char* y, int64_t row, int64_t column) const {
    turn(x + row * x_pitch + column * 4, x_pitch, y + column * y_pitch + row * 4, y_pitch);
  }

  static void turn(const char* from, int64_t from_pitch, char* to, int64_t to_pitch) {
    Four a, b, c, d;
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + from_pitch, sizeof b);
    std::memcpy(&c, from + 2 * from_pitch, sizeof c);
    std::memcpy(&d, from + 3 * from_pitch, sizeof d);
    const Four ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), ca = __builtin_shufflevector(a, c, 2, 6, 3, 7);
    const Four bd = __builtin_shufflevector(b, d, 0, 4, 1, 5), db = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    const Four first = __builtin_shufflevector(ac, bd, 0, 4, 1, 5),
               second = __builtin_shufflevector(ac, bd, 2, 6, 3, 7);
    const Four third = __builtin_shufflevector(ca, db, 0, 4, 1, 5),
               fourth = __builtin_shufflevector(ca, db, 2, 6, 3, 7);
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + to_pitch, &second, sizeof second);
    std::memcpy(to + 2 * to_pitch, &third, sizeof third);
    std::memcpy(to + 3 * to_pitch, &fourth, sizeof fourth);
  }
};

}  // namespace rta
