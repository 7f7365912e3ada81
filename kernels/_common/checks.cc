// Checks of a specification, compiled once.
#include "_common/checks.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace rta {

void expect(bool held, const char* format, ...) {
  if (held) return;
  char text[400];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fail("%s", text);
}

int64_t between(const Attrs& attrs, const char* name, int64_t low, int64_t high) {
  const int64_t value = attrs.integer(name);
  expect(value >= low && value <= high, "%s is %lld, expected %lld to %lld", name, static_cast<long long>(value),
         static_cast<long long>(low), static_cast<long long>(high));
  return value;
}

bool flag(const Attrs& attrs, const char* name) { return between(attrs, name, 0, 1) != 0; }

int32_t zero_byte(const Attrs& attrs, const char* name) {
  return static_cast<int32_t>(between(attrs, name, -128, 127)) + 128;
}

float finite(const Attrs& attrs, const char* name) {
  const float value = static_cast<float>(attrs.real(name));
  expect(std::isfinite(value), "%s is %g, expected a finite number", name, static_cast<double>(value));
  return value;
}

int word(const Attrs& attrs, const char* name, const char* words) {
  const char* text = attrs.text(name);
  const size_t length = std::strlen(text);
  int place = 0;
  for (const char* at = words; at; ++place) {
    const char* end = std::strchr(at, '|');
    const size_t own = end ? static_cast<size_t>(end - at) : std::strlen(at);
    if (own == length && std::memcmp(at, text, own) == 0) return place;
    at = end ? end + 1 : nullptr;
  }
  fail("%s is '%.64s', expected one of %s", name, text, words);
}

int64_t product(int64_t a, int64_t b, int64_t c, int64_t d) {
  int64_t made = 1;
  for (const int64_t factor : {a, b, c, d}) {
    expect(factor >= 0 && (factor == 0 || made <= kMaxElements / factor),
           "sizes of %lld, %lld, %lld and %lld together are too large", static_cast<long long>(a),
           static_cast<long long>(b), static_cast<long long>(c), static_cast<long long>(d));
    made *= factor;
  }
  return made;
}

static void expect_count(int count, int least, int most, const char* what) {
  expect(count >= least && count <= most, "%d %s, expected %d to %d", count, what, least, most);
}
void expect_inputs(const StageSpec& spec, int least, int most) {
  expect_count(spec.input_count, least, most, "inputs");
}
void expect_outputs(const StageSpec& spec, int least, int most) {
  expect_count(spec.output_count, least, most, "outputs");
}
void expect_ports(const StageSpec& spec, int inputs, int outputs) {
  expect_inputs(spec, inputs, inputs);
  expect_outputs(spec, outputs, outputs);
}

void expect_dtype(const Value& v, rta_dtype dtype, const char* what) { expect_dtype(v, dtype, dtype, what); }

void expect_dtype(const Value& v, rta_dtype dtype, rta_dtype other, const char* what) {
  if (v.dtype == dtype || v.dtype == other) return;
  if (dtype == other) fail("%s has dtype %s, expected %s", what, dtype_name(v.dtype), dtype_name(dtype));
  fail("%s has dtype %s, expected %s or %s", what, dtype_name(v.dtype), dtype_name(dtype), dtype_name(other));
}

void expect_shape(const Value& v, int64_t steps, int64_t width, const char* what) {
  expect(v.steps == steps && v.width == width, "%s has %lld rows of %lld, expected %lld of %lld", what,
         static_cast<long long>(v.steps), static_cast<long long>(v.width), static_cast<long long>(steps),
         static_cast<long long>(width));
}

void expect_value(const Value& v, rta_dtype dtype, int64_t steps, int64_t width, const char* what) {
  expect_dtype(v, dtype, what);
  expect_shape(v, steps, width, what);
}

int64_t elements(const Value& v) { return product(v.steps, v.width); }

void expect_rows(int64_t steps) {
  if constexpr (RTA_MOST_ROWS != INT64_MAX)
    expect(steps <= RTA_MOST_ROWS / RTA_MOST_SAMPLES, "%lld rows a sample, for which this was not built",
           static_cast<long long>(steps));
}

void expect_within(const int32_t* table, int64_t count, int64_t low, int64_t high, const char* what) {
  for (int64_t i = 0; i < count; ++i)
    expect(table[i] >= low && table[i] < high, "%s has %d, expected %lld to %lld", what, table[i],
           static_cast<long long>(low), static_cast<long long>(high - 1));
}

}  // namespace rta
