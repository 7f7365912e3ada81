// Keep on the CPU: a copy into a state, so one form for every instruction set. The contract is in contract.py.
//
// Floor: the bytes of x read and written. Rows that lie back to back before and after are one copy.
#include <cstring>

#include "_common/checks.h"

namespace rta {
namespace {

class KeepStage final : public Stage {
 public:
  explicit KeepStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    expect_ports(spec, 1, 1);
    const Value &x = spec.input(0), &y = spec.output(0);
    expect_dtype(y, RTA_FLOAT32, RTA_INT64, "y");
    expect_value(x, y.dtype, y.steps, y.width, "x");
    const int64_t element = y.dtype == RTA_INT64 ? 8 : 4, count = elements(y);
    bytes_ = static_cast<size_t>(y.width * element);
    initial_bytes_ = static_cast<size_t>(count * element);
    char* initial = static_cast<char*>(spec.arena->take(initial_bytes_));
    if (y.dtype == RTA_INT64)
      std::memcpy(initial, spec.attrs.longs("initial", count), initial_bytes_);
    else
      std::memcpy(initial, spec.attrs.floats("initial", count), initial_bytes_);
    initial_ = initial;
    const auto dense = static_cast<int64_t>(bytes_);
    whole_ = x.pitch == dense && y.pitch == dense;
  }

  void run(const Run& run) const override {
    const int64_t rows = y_.rows(run);
    if (whole_)
      std::memcpy(y_.row(run, 0), x_.row(run, 0), static_cast<size_t>(rows) * bytes_);
    else
      for (int64_t r = 0; r < rows; ++r) std::memcpy(y_.row(run, r), x_.row(run, r), bytes_);
  }

  void start(int id, char* state) const override {
    if (id != y_.id) return;
    for (int64_t r = 0; r < y_.steps; ++r) std::memcpy(state + r * y_.pitch, initial_ + r * bytes_, bytes_);
  }

 private:
  GraphIO x_, y_;
  size_t bytes_, initial_bytes_;
  const char* initial_;
  bool whole_;
};

const Register kRegister({"keep", "cpu_copy", Isa::kPortable, 0, nullptr,
                          [](const StageSpec& spec) -> Stage* { return new KeepStage(spec); }});

}  // namespace
}  // namespace rta
