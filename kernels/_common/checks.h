// What a stage checks of its specification before it computes anything with it. A plan may come from a file that
// somebody forged: every number of it is held against the values that the stage is wired to, while the plan is built.
// Nothing of this runs in a call.
//
// Messages need no operator in front: the plan puts it there.
#pragma once

#include "_core/stage.h"

namespace rta {

constexpr int64_t kMaxElements = int64_t{1} << 40;  // of anything; products of two element sizes stay far from overflow
constexpr int64_t kMaxInt8Products = 65'536;        // of one sum: 65,536 * 255 * 128 stays below 2^31

// Fails with the text where it does not hold.
void expect(bool held, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Attributes. A whole number in low .. high; 0 or 1; a zero point in -128 .. 127 as the byte it is in memory, + 128; a
// finite float32.
int64_t between(const Attrs& attrs, const char* name, int64_t low, int64_t high);
bool flag(const Attrs& attrs, const char* name);
int32_t zero_byte(const Attrs& attrs, const char* name);
float finite(const Attrs& attrs, const char* name);
// The place of a text among `words`, which are separated by "|".
int word(const Attrs& attrs, const char* name, const char* words);

// The product of numbers from 0 on; fails where it is more than kMaxElements.
int64_t product(int64_t a, int64_t b, int64_t c = 1, int64_t d = 1);

// So many inputs and outputs.
void expect_inputs(const StageSpec& spec, int least, int most);
void expect_outputs(const StageSpec& spec, int least, int most);
void expect_ports(const StageSpec& spec, int inputs, int outputs);

// A value as it should be. what: "x", "y", ... for the message.
void expect_dtype(const Value& v, rta_dtype dtype, const char* what);
void expect_dtype(const Value& v, rta_dtype dtype, rta_dtype other, const char* what);
void expect_shape(const Value& v, int64_t steps, int64_t width, const char* what);
void expect_value(const Value& v, rta_dtype dtype, int64_t steps, int64_t width, const char* what);
int64_t elements(const Value& v);  // of one sample

// In a build for one model: that a stage with so many rows a sample is within what was compiled (RTA_MOST_ROWS).
void expect_rows(int64_t steps);

// The numbers of a table are in low .. high - 1.
void expect_within(const int32_t* table, int64_t count, int64_t low, int64_t high, const char* what);

}  // namespace rta
