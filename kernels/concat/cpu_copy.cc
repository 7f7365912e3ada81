// Concat on the CPU: copies, so one form for every instruction set. The contract is in contract.py.
#include <cstring>

#include "_common/checks.h"
#include "_matrices/transposition.h"

namespace rta {
namespace {

constexpr int kMaxParts = 256;

class ConcatStage final : public Stage {
 public:
  explicit ConcatStage(const StageSpec& spec) : y_(spec.out(0)), parts_(spec.input_count) {
    expect_inputs(spec, 1, kMaxParts);
    expect_outputs(spec, 1, 1);
    x_ = static_cast<GraphIO*>(spec.arena->take(static_cast<size_t>(parts_) * sizeof(GraphIO)));
    int64_t width = 0;
    for (int i = 0; i < parts_; ++i) {
      x_[i] = spec.in(i);
      if (spec.input(i).dtype != RTA_FLOAT32 || x_[i].steps != y_.steps) fail("concat: takes float32 of equal rows");
      width += x_[i].width;
      columns_ &= x_[i].width == 1;
      dense_ &= x_[i].pitch == 4;
    }
    dense_ &= columns_ && parts_ > 1 && parts_ <= 4 && y_.pitch == 4 * parts_;
    if (width != y_.width || spec.output(0).dtype != RTA_FLOAT32) fail("concat: the parts do not fill the result");
  }

  void run(const Run& run) const override {
    if (columns_) return columns(run);
    for (int64_t r = 0; r < y_.rows(run); ++r) {
      char* to = y_.row(run, r);
      for (int i = 0; i < parts_; ++i) {
        const size_t bytes = static_cast<size_t>(x_[i].width) * sizeof(float);
        std::memcpy(to, x_[i].row(run, r), bytes);
        to += bytes;
      }
    }
  }

 private:
  // Of one number each, as the two parts of complex ones are.
  void columns(const Run& run) const {
    const int64_t rows = y_.rows(run), pitch = y_.pitch;
    if (dense_ && rows > 0) {  // the parts are the rows of a matrix that is turned over, where they lie evenly
      const char *first = x_[0].row(run, 0), *second = x_[1].row(run, 0);
      bool even = true;
      for (int i = 2; i < parts_; ++i) even &= x_[i].row(run, 0) - first == i * (second - first);
      if (even) return Transposition{parts_, rows, second - first, pitch}.run(first, y_.row(run, 0));
    }
    for (int i = 0; i < parts_ && rows > 0; ++i) {
      const char* from = x_[i].row(run, 0);
      char* to = y_.row(run, 0) + i * static_cast<int64_t>(sizeof(float));
      const int64_t step = x_[i].pitch;
      for (int64_t r = 0; r < rows; ++r)
        *reinterpret_cast<float*>(to + r * pitch) = *reinterpret_cast<const float*>(from + r * step);
    }
  }

  GraphIO* x_;  // by part
  GraphIO y_;
  int parts_;
  bool columns_ = true, dense_ = true;
};

const Register kRegister({"concat", "cpu_copy", Isa::kPortable, 0, nullptr,
                          [](const StageSpec& spec) -> Stage* { return new ConcatStage(spec); }});

}  // namespace
}  // namespace rta
