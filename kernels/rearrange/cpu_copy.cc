// Rearrange on the CPU: copies, so one form for every instruction set. The contract is in contract.py.
//
// A transposition goes by 4 x 4 numbers, in an order that has whole cache lines of either side at hand; of 2, 3 or 4
// dense rows, as images of few channels are, in one pass over whole vectors. Where numbers that lie side by side stay
// so, they are copied as runs. Anything else is a table of places. A run of columns between two stages is not copied at
// all: they are seen where they lie.
#include <cstring>

#include "_common/checks.h"

namespace rta {
namespace {

typedef float Four __attribute__((vector_size(16)));
constexpr int64_t kLine = 16;  // numbers

class RearrangeStage final : public Stage {
 public:
  explicit RearrangeStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    expect_ports(spec, 1, 1);
    by_row_ = flag(spec.attrs, "by_row");
    if (by_row_)
      expect(x_.width == y_.width, "rows of %lld are no rows of %lld", (long long)x_.width, (long long)y_.width);
    const int64_t count = by_row_ ? y_.steps : elements(spec.output(0));
    const int32_t* given = spec.attrs.ints("table", count);
    const rta_dtype dtype = spec.input(0).dtype;
    if (dtype != spec.output(0).dtype || (dtype != RTA_FLOAT32 && dtype != RTA_INT64))
      fail("rearrange: takes float32 or int64");
    element_ = dtype == RTA_INT64 ? 8 : 4;
    const int64_t limit = by_row_ ? x_.steps : x_.steps * x_.width;
    for (int64_t i = 0; i < count; ++i)
      if (given[i] < 0 || given[i] >= limit)
        fail("rearrange: index %d of %lld", given[i], static_cast<long long>(limit));
    if (!by_row_) columns_at_ = find_columns(given, count);
    if (!by_row_ && element_ == 4 && elements(spec.input(0)) == count) find_transposition(given, count);
    if (rows_) return;
    run_count_ = runs(given, count, nullptr);
    if (by_row_ || run_count_ * kWorthRun <= count) {
      Piece* pieces = static_cast<Piece*>(spec.arena->take(static_cast<size_t>(run_count_) * sizeof(Piece)));
      runs(given, count, pieces);
      pieces_ = pieces;
      return;
    }
    int64_t* table = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
    for (int64_t i = 0; i < count; ++i) table[i] = given[i] / x_.width * x_.pitch + given[i] % x_.width * element_;
    table_ = table;
  }

  int64_t columns_at() const override { return columns_at_; }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      char* y = y_.row(run, s * y_.steps);
      if (pieces_)
        for (int64_t i = 0; i < run_count_; ++i) {
          const Piece& piece = pieces_[i];
          if (piece.bytes < 0)
            reverse(y + piece.to, x + piece.from, -piece.bytes);
          else
            copy(y + piece.to, x + piece.from, piece.bytes);
        }
      else if (rows_)
        transpose(x, y);
      else if (element_ == 8)
        gather<int64_t>(x, y);
      else
        gather<float>(x, y);
    }
  }

 private:
  struct Piece {  // bytes < 0: of float32, from back to front, `from` being the last
    int64_t to, from, bytes;
  };
  static constexpr int64_t kWorthRun =
      3;  // numbers of a run, on the average, from which on runs are faster than a table
  static constexpr int64_t kLong = 1024;  // bytes from which on a call of memcpy is nothing

  // Bytes to the first of the columns that y is, in every row; -1 where it is something else.
  int64_t find_columns(const int32_t* given, int64_t count) const {
    if (x_.steps != y_.steps || count == 0 || given[0] + y_.width > x_.width) return -1;
    for (int64_t i = 0; i < count; ++i)
      if (given[i] != i / y_.width * x_.width + given[0] + i % y_.width) return -1;
    return given[0] * element_;
  }

  // Numbers, or rows, that lie side by side before and after: how many runs, written to `pieces` where that is given.
  int64_t runs(const int32_t* given, int64_t count, Piece* pieces) const {
    int64_t found = 0;
    Piece last{0, 0, 0};
    for (int64_t i = 0; i < count; ++i) {
      const Piece next = by_row_ ? Piece{i * y_.pitch, given[i] * x_.pitch, y_.width * element_}
                                 : Piece{i / y_.width * y_.pitch + i % y_.width * element_,
                                         given[i] / x_.width * x_.pitch + given[i] % x_.width * element_, element_};
      const bool turns = !by_row_ && element_ == 4 && (last.bytes == 4 || last.bytes < 0);
      if (found && last.bytes > 0 && next.to == last.to + last.bytes && next.from == last.from + last.bytes) {
        last.bytes += next.bytes;
      } else if (found && turns && next.from == last.from - 4 &&
                 next.to == last.to + (last.bytes < 0 ? -last.bytes : 4)) {
        last.bytes = last.bytes < 0 ? last.bytes - 4 : -8;
        last.from = next.from;
      } else {
        last = next;
        ++found;
      }
      if (pieces) pieces[found - 1] = last;
    }
    return found;
  }

  // Whole vectors, the last of which overlaps the one before.
  static void copy(char* to, const char* from, int64_t bytes) {
    if (bytes >= kLong) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    } else if (bytes >= 16) {
      Four v;
      for (int64_t i = 0; i + 16 < bytes; i += 16) {
        std::memcpy(&v, from + i, 16);
        std::memcpy(to + i, &v, 16);
      }
      std::memcpy(&v, from + bytes - 16, 16);
      std::memcpy(to + bytes - 16, &v, 16);
    } else {
      for (int64_t i = 0; i < bytes; i += 4) std::memcpy(to + i, from + i, 4);
    }
  }

  // `from` is the number that comes last.
  static void reverse(char* to, const char* from, int64_t bytes) {
    int64_t i = bytes;
    for (; i >= 16; i -= 16, to += 16) {
      const Four v = load(from + i - 16);
      store(to, __builtin_shufflevector(v, v, 3, 2, 1, 0));
    }
    for (; i > 0; i -= 4, to += 4) std::memcpy(to, from + i - 4, 4);
  }

  // Whether y is x of so many rows and columns turned over, rows being those of the values or a part of what lies
  // densely.
  void find_transposition(const int32_t* given, int64_t count) {
    const int64_t columns = count > 1 ? given[1] : 0, rows = columns > 0 ? count / columns : 0;
    if (rows < 2 || rows * columns != count) return;
    for (int64_t i = 0; i < count; ++i)
      if (given[i] != i % rows * columns + i / rows) return;
    const bool own_x = x_.steps == rows && x_.width == columns, own_y = y_.steps == columns && y_.width == rows;
    if (!(own_x || x_.steps == 1 || x_.pitch == x_.width * 4) || !(own_y || y_.steps == 1 || y_.pitch == y_.width * 4))
      return;
    rows_ = rows;
    columns_ = columns;
    x_pitch_ = own_x ? x_.pitch : columns * 4;
    y_pitch_ = own_y ? y_.pitch : rows * 4;
  }

  // Rows that lie a power of two apart share the sets of a cache: no more than four of those are in use at a time, and
  // of these whole lines.
  void transpose(const char* x, char* y) const {
    if (y_pitch_ == rows_ * 4) {
      switch (rows_) {
        case 2: return weave<2>(x, y);
        case 3: return weave<3>(x, y);
        case 4: return weave<4>(x, y);
        default: break;
      }
    }
    if (x_pitch_ == columns_ * 4) {
      switch (columns_) {
        case 2: return part<2>(x, y);
        case 3: return part<3>(x, y);
        case 4: return part<4>(x, y);
        default: break;
      }
    }
    const int64_t rows = rows_ / 4 * 4, columns = columns_ / 4 * 4;
    if (x_pitch_ >= y_pitch_) {
      for (int64_t c = 0; c < columns; c += kLine)
        for (int64_t r = 0; r < rows; r += 4)
          for (int64_t i = c; i < c + kLine && i < columns; i += 4) turn(x, y, r, i);
    } else {
      for (int64_t r = 0; r < rows; r += kLine)
        for (int64_t c = 0; c < columns; c += 4)
          for (int64_t i = r; i < r + kLine && i < rows; i += 4) turn(x, y, i, c);
    }
    for (int64_t c = 0; c < columns_; ++c)
      for (int64_t r = c < columns ? rows : 0; r < rows_; ++r)
        std::memcpy(y + c * y_pitch_ + r * 4, x + r * x_pitch_ + c * 4, 4);
  }

  static Four load(const char* from) {
    Four v;
    std::memcpy(&v, from, 16);
    return v;
  }
  static void store(char* to, Four v) { std::memcpy(to, &v, 16); }

  // kRows rows become one line that goes round them.
  template <int kRows>
  void weave(const char* x, char* y) const {
    int64_t i = 0;
    for (; i + 4 <= columns_; i += 4, y += 16 * kRows) {
      const char* from = x + i * 4;
      const Four a = load(from), b = load(from + x_pitch_);
      if constexpr (kRows == 2) {
        store(y, __builtin_shufflevector(a, b, 0, 4, 1, 5));
        store(y + 16, __builtin_shufflevector(a, b, 2, 6, 3, 7));
      } else if constexpr (kRows == 3) {
        const Four c = load(from + 2 * x_pitch_);
        const Four first = __builtin_shufflevector(a, b, 0, 4, 1, 5);   // a0 b0 a1 b1
        const Four second = __builtin_shufflevector(b, c, 1, 5, 2, 6);  // b1 c1 b2 c2
        const Four third = __builtin_shufflevector(a, b, 3, 7, 3, 7);   // a3 b3
        store(y, __builtin_shufflevector(first, c, 0, 1, 4, 2));
        store(y + 16, __builtin_shufflevector(second, a, 0, 1, 6, 2));
        store(y + 32, __builtin_shufflevector(third, c, 6, 0, 1, 7));
      } else {
        turn(from, x_pitch_, y, 16);
      }
    }
    for (; i < columns_; ++i)
      for (int r = 0; r < kRows; ++r, y += 4) std::memcpy(y, x + r * x_pitch_ + i * 4, 4);
  }

  // The other way: a line goes to kColumns rows.
  template <int kColumns>
  void part(const char* x, char* y) const {
    int64_t i = 0;
    for (; i + 4 <= rows_; i += 4, x += 16 * kColumns) {
      char* to = y + i * 4;
      if constexpr (kColumns == 4) {
        turn(x, 16, to, y_pitch_);
        continue;
      }
      const Four a = load(x), b = load(x + 16);
      if constexpr (kColumns == 2) {
        store(to, __builtin_shufflevector(a, b, 0, 2, 4, 6));
        store(to + y_pitch_, __builtin_shufflevector(a, b, 1, 3, 5, 7));
      } else if constexpr (kColumns == 3) {
        const Four c = load(x + 32);
        const Four first = __builtin_shufflevector(a, b, 0, 3, 6, 6),
                   second = __builtin_shufflevector(a, b, 1, 4, 7, 7);
        const Four third = __builtin_shufflevector(a, b, 2, 5, 2, 5);
        store(to, __builtin_shufflevector(first, c, 0, 1, 2, 5));
        store(to + y_pitch_, __builtin_shufflevector(second, c, 0, 1, 2, 6));
        store(to + 2 * y_pitch_, __builtin_shufflevector(third, c, 0, 1, 4, 7));
      }
    }
    for (; i < rows_; ++i)
      for (int c = 0; c < kColumns; ++c, x += 4) std::memcpy(y + c * y_pitch_ + i * 4, x, 4);
  }

  // 4 x 4 numbers.
  void turn(const char* x, char* y, int64_t row, int64_t column) const {
    turn(x + row * x_pitch_ + column * 4, x_pitch_, y + column * y_pitch_ + row * 4, y_pitch_);
  }

  static void turn(const char* from, int64_t x_pitch, char* to, int64_t y_pitch) {
    Four a, b, c, d;
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + x_pitch, sizeof b);
    std::memcpy(&c, from + 2 * x_pitch, sizeof c);
    std::memcpy(&d, from + 3 * x_pitch, sizeof d);
    const Four ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), ca = __builtin_shufflevector(a, c, 2, 6, 3, 7);
    const Four bd = __builtin_shufflevector(b, d, 0, 4, 1, 5), db = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    const Four first = __builtin_shufflevector(ac, bd, 0, 4, 1, 5),
               second = __builtin_shufflevector(ac, bd, 2, 6, 3, 7);
    const Four third = __builtin_shufflevector(ca, db, 0, 4, 1, 5),
               fourth = __builtin_shufflevector(ca, db, 2, 6, 3, 7);
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + y_pitch, &second, sizeof second);
    std::memcpy(to + 2 * y_pitch, &third, sizeof third);
    std::memcpy(to + 3 * y_pitch, &fourth, sizeof fourth);
  }

  template <class T>
  void gather(const char* x, char* y) const {
    const int64_t* from = table_;
    for (int64_t i = 0; i < y_.steps; ++i) {
      T* to = reinterpret_cast<T*>(y + i * y_.pitch);
      for (int64_t c = 0; c < y_.width; ++c) to[c] = *reinterpret_cast<const T*>(x + *from++);
    }
  }

  GraphIO x_, y_;
  bool by_row_;
  int64_t element_, columns_at_ = -1;
  int64_t rows_ = 0, columns_ = 0, x_pitch_ = 0, y_pitch_ = 0;  // of a transposition: rows and columns of x
  const int64_t* table_ = nullptr;
  const Piece* pieces_ = nullptr;
  int64_t run_count_ = 0;
};

const Register kRegister({"rearrange", "cpu_copy", Isa::kPortable, 0, nullptr,
                          [](const StageSpec& spec) -> Stage* { return new RearrangeStage(spec); }});

}  // namespace
}  // namespace rta
