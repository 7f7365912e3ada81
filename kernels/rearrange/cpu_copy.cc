// Rearrange on the CPU: copies, so one form for every instruction set. The contract is in contract.py.
//
// A transposition goes in blocks of 16 x 16, so that both sides stay in cache lines that are at hand; the compiler
// makes of the inner loop what the processor can do. Anything else is a table of places.
#include <cstring>

#include "_common/checks.h"

namespace rta {
namespace {

class RearrangeStage final : public Stage {
 public:
  explicit RearrangeStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    expect_ports(spec, 1, 1);
    by_row_ = flag(spec.attrs, "by_row");
    transposes_ = !by_row_ && flag(spec.attrs, "transposes");
    if (by_row_)
      expect(x_.width == y_.width, "rows of %lld are no rows of %lld", (long long)x_.width, (long long)y_.width);
    if (transposes_) expect_shape(spec.output(0), x_.width, x_.steps, "y");
    const int64_t count = by_row_ ? y_.steps : elements(spec.output(0));
    const int32_t* given = spec.attrs.ints("table", count);
    const rta_dtype dtype = spec.input(0).dtype;
    if (dtype != spec.output(0).dtype || (dtype != RTA_FLOAT32 && dtype != RTA_INT64))
      fail("rearrange: takes float32 or int64");
    element_ = dtype == RTA_INT64 ? 8 : 4;
    transposes_ &= element_ == 4;
    const int64_t limit = by_row_ ? x_.steps : x_.steps * x_.width;
    int64_t* table = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
    for (int64_t i = 0; i < count; ++i) {
      if (given[i] < 0 || given[i] >= limit)
        fail("rearrange: index %d of %lld", given[i], static_cast<long long>(limit));
      table[i] = by_row_ ? given[i] * x_.pitch : given[i] / x_.width * x_.pitch + given[i] % x_.width * element_;
    }
    table_ = table;
  }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      char* y = y_.row(run, s * y_.steps);
      if (by_row_)
        for (int64_t i = 0; i < y_.steps; ++i)
          std::memcpy(y + i * y_.pitch, x + table_[i], static_cast<size_t>(element_ * y_.width));
      else if (transposes_)
        transpose(x, y);
      else if (element_ == 8)
        gather<int64_t>(x, y);
      else
        gather<float>(x, y);
    }
  }

 private:
  void transpose(const char* x, char* y) const {
    constexpr int64_t kBlock = 16;
    for (int64_t row = 0; row < x_.steps; row += kBlock)
      for (int64_t column = 0; column < x_.width; column += kBlock) {
        const int64_t rows = x_.steps - row < kBlock ? x_.steps - row : kBlock;
        const int64_t columns = x_.width - column < kBlock ? x_.width - column : kBlock;
        for (int64_t c = 0; c < columns; ++c) {
          float* to = reinterpret_cast<float*>(y + (column + c) * y_.pitch) + row;
          const char* from = x + row * x_.pitch + (column + c) * 4;
          for (int64_t r = 0; r < rows; ++r) to[r] = *reinterpret_cast<const float*>(from + r * x_.pitch);
        }
      }
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
  bool by_row_, transposes_;
  int64_t element_;
  const int64_t* table_;
};

const Register kRegister({"rearrange", "cpu_copy", Isa::kPortable, 0, nullptr,
                          [](const StageSpec& spec) -> Stage* { return new RearrangeStage(spec); }});

}  // namespace
}  // namespace rta
