// Rearrange on the CPU: copies, so one form for every instruction set. The contract is in contract.py.
//
// A transposition has its own loop (transposition.h). It may be of columns among others, or of many blocks, as the
// heads of attention are. Where numbers that lie side by side stay so, they are copied as runs, as every second to
// fourth number is. Anything else is a table of places. A run of columns between two stages is not copied at all: they
// are seen where they lie.
#include <cstring>

#include "_common/checks.h"
#include "_matrices/transposition.h"

namespace rta {
namespace {

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
    if (!by_row_ && element_ == 4 && find_transposition(given, count, *spec.arena)) return;
    run_count_ = runs(given, count, nullptr);
    if ((by_row_ && y_.width > 1) || run_count_ * kWorthRun <= count) {
      Piece* pieces = static_cast<Piece*>(spec.arena->take(static_cast<size_t>(run_count_) * sizeof(Piece)));
      runs(given, count, pieces);
      pieces_ = pieces;
      return;
    }
    int64_t* table = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
    for (int64_t i = 0; i < count; ++i) table[i] = by_row_ ? given[i] * x_.pitch : x_bytes(given[i]);
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
          switch (piece.goes) {
            case kForward: copy(y + piece.to, x + piece.from, piece.bytes); break;
            case kBack: reverse(y + piece.to, x + piece.from, piece.bytes); break;
            case kEvery2: every<2>(y + piece.to, x + piece.from, piece.bytes); break;
            case kEvery3: every<3>(y + piece.to, x + piece.from, piece.bytes); break;
            case kEvery4: every<4>(y + piece.to, x + piece.from, piece.bytes); break;
            default: repeat(y + piece.to, x + piece.from, piece.bytes);
          }
        }
      else if (blocks_)
        for (int64_t b = 0; b < block_count_; ++b) turned_.run(x + blocks_[b].from, y + blocks_[b].to);
      else if (element_ == 8)
        gather<int64_t>(x, y);
      else
        gather<float>(x, y);
    }
  }

 private:
  // All but the first are of float32; `from` is the number that comes first.
  enum Goes : int64_t { kForward, kBack, kRepeats, kEvery2, kEvery3, kEvery4 };
  struct Piece {
    int64_t to, from, bytes;
    Goes goes;
  };
  struct Block {  // bytes to where a transposition begins
    int64_t from, to;
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
    Piece last{0, 0, 0, kForward};
    for (int64_t i = 0; i < count; ++i) {
      const Piece next = by_row_ ? Piece{i * y_.pitch, given[i] * x_.pitch, y_.width * element_, kForward}
                                 : Piece{y_bytes(i), x_bytes(given[i]), element_, kForward};
      const bool follows = found && next.to == last.to + last.bytes;
      if (follows && last.goes == kForward && next.from == last.from + last.bytes)
        last.bytes += next.bytes;
      else if (follows && next.bytes == 4 && turns(last, next.from))
        last.bytes += 4;
      else
        last = next, ++found;
      if (pieces) pieces[found - 1] = last;
    }
    return found;
  }

  // Whether a run of float32 goes on at `from` backwards, with the same number again, or with every second to fourth.
  static bool turns(Piece& last, int64_t from) {
    const bool single = last.bytes == 4;
    if ((single || last.goes == kBack) && from == last.from - last.bytes) return last.goes = kBack, true;
    if ((single || last.goes == kRepeats) && from == last.from) return last.goes = kRepeats, true;
    for (int64_t k = 2; k <= 4; ++k) {
      const Goes every = static_cast<Goes>(kEvery2 + k - 2);
      if ((single || last.goes == every) && from == last.from + k * last.bytes) return last.goes = every, true;
    }
    return false;
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

  static void reverse(char* to, const char* from, int64_t bytes) {
    int64_t i = bytes;
    for (; i >= 16; i -= 16, from -= 16, to += 16) {
      const Four v = Transposition::load(from - 12);
      Transposition::store(to, __builtin_shufflevector(v, v, 3, 2, 1, 0));
    }
    for (; i > 0; i -= 4, from -= 4, to += 4) std::memcpy(to, from, 4);
  }

  static void repeat(char* to, const char* from, int64_t bytes) {
    float number;
    std::memcpy(&number, from, 4);
    const Four v = {number, number, number, number};
    int64_t i = bytes;
    for (; i >= 16; i -= 16, to += 16) Transposition::store(to, v);
    for (; i > 0; i -= 4, to += 4) std::memcpy(to, &number, 4);
  }

  // Every k-th number. What is read reaches no further than the last one.
  template <int k>
  static void every(char* to, const char* from, int64_t bytes) {
    int64_t i = bytes;
    for (; i > 16; i -= 16, from += 16 * k, to += 16) {
      const Four a = Transposition::load(from), b = Transposition::load(from + 16);
      if constexpr (k == 2) {
        Transposition::store(to, __builtin_shufflevector(a, b, 0, 2, 4, 6));
      } else {
        const Four c = Transposition::load(from + 32);
        if constexpr (k == 3) {
          const Four first = __builtin_shufflevector(a, b, 0, 3, 6, 6);
          Transposition::store(to, __builtin_shufflevector(first, c, 0, 1, 2, 5));
        } else {
          const Four d = Transposition::load(from + 48);
          const Four first = __builtin_shufflevector(a, b, 0, 4, 0, 4),
                     second = __builtin_shufflevector(c, d, 0, 4, 0, 4);
          Transposition::store(to, __builtin_shufflevector(first, second, 0, 1, 4, 5));
        }
      }
    }
    for (; i > 0; i -= 4, from += 4 * k, to += 4) std::memcpy(to, from, 4);
  }

  int64_t x_bytes(int64_t element) const { return element / x_.width * x_.pitch + element % x_.width * element_; }
  int64_t y_bytes(int64_t element) const { return element / y_.width * y_.pitch + element % y_.width * element_; }

  // The dimensions of y, the innermost first, by which `given` goes in one stride each. 0 where there are too many.
  struct Dimension {
    int64_t size, stride, apart;  // elements of x and of y from one to the next
  };
  static constexpr int kMaxDimensions = 8;
  static int dimensions(const int32_t* given, int64_t count, Dimension (&found)[kMaxDimensions]) {
    int64_t inner = 1;
    for (int n = 0; n < kMaxDimensions; ++n) {
      if (inner == count) return n;
      const int64_t stride = given[inner] - given[0];
      int64_t size = 1;
      while (inner * size < count && given[inner * size] == given[0] + size * stride) ++size;
      if (count % (inner * size)) return 0;
      found[n] = {size, stride, inner};
      inner *= size;
    }
    return inner == count ? kMaxDimensions : 0;
  }

  // Whether y is x with rows and columns turned over: once, or in blocks that lie anywhere.
  bool find_transposition(const int32_t* given, int64_t count, Arena& arena) {
    Dimension found[kMaxDimensions];
    const int dims = dimensions(given, count, found);
    int turned = 1;
    while (turned < dims && found[turned].stride != 1) ++turned;
    if (turned >= dims || found[0].stride <= 1 || found[0].size < 2) return false;
    const int64_t rows = found[0].size, columns = found[turned].size, apart = found[turned].apart;
    const int64_t x_pitch = x_bytes(given[1]) - x_bytes(given[0]), y_pitch = y_bytes(apart);
    const bool woven = rows <= 4 && y_pitch == rows * 4, parted = columns <= 4 && x_pitch == columns * 4;
    if (!woven && !parted && (rows < 4 || columns < 4)) return false;
    const int64_t blocks = count / rows / columns;
    Block* block = static_cast<Block*>(arena.take(static_cast<size_t>(blocks) * sizeof(Block)));
    for (int64_t b = 0; b < blocks; ++b) {
      int64_t first = 0, rest = b;
      for (int d = 1; d < dims; ++d) {
        if (d == turned) continue;
        first += rest % found[d].size * found[d].apart;
        rest /= found[d].size;
      }
      block[b] = {x_bytes(given[first]), y_bytes(first)};
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t element = first + c * apart + r;
          if (x_bytes(given[element]) != block[b].from + r * x_pitch + c * 4 ||
              y_bytes(element) != block[b].to + c * y_pitch + r * 4)
            return false;
        }
    }
    turned_ = {rows, columns, x_pitch, y_pitch};
    blocks_ = block, block_count_ = blocks;
    return true;
  }

  template <class T>
  void gather(const char* x, char* y) const {
    const bool dense = y_.pitch == y_.width * static_cast<int64_t>(sizeof(T));
    const int64_t *from = table_, width = dense ? y_.steps * y_.width : y_.width, pitch = y_.pitch;
    for (int64_t i = dense ? 1 : y_.steps; i > 0; --i, y += pitch, from += width)
      for (int64_t c = 0; c < width; ++c) std::memcpy(y + c * sizeof(T), x + from[c], sizeof(T));
  }

  GraphIO x_, y_;
  bool by_row_;
  int64_t element_, columns_at_ = -1;
  Transposition turned_;
  const Block* blocks_ = nullptr;
  int64_t block_count_ = 0;
  const int64_t* table_ = nullptr;
  const Piece* pieces_ = nullptr;
  int64_t run_count_ = 0;
};

const Register kRegister({"rearrange", "cpu_copy", Isa::kPortable, 0, nullptr,
                          [](const StageSpec& spec) -> Stage* { return new RearrangeStage(spec); }});

}  // namespace
}  // namespace rta
