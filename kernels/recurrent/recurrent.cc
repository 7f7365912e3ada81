// The shape of a recurrent stage, read and checked once.
#include "recurrent/recurrent.h"

#include "_common/checks.h"
#include "_common/int4_pack.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace rta {

// Large enough for any network; products of two of them, gates and bytes of a number are no overflow.
constexpr int64_t kTogether = 8;  // streams of a window
constexpr int64_t kMostUnits = 1 << 24, kMostLayers = 1 << 16;

RecurrentShape::RecurrentShape(const StageSpec& spec)
    : inputs(spec.input(0).width),
      hidden(between(spec.attrs, "hidden", 1, kMostUnits)),
      layers(between(spec.attrs, "layers", 1, kMostLayers)),
      directions(between(spec.attrs, "directions", 1, 2)),
      time(between(spec.attrs, "time", 1, INT32_MAX)),
      batch(between(spec.attrs, "batch", 1, INT32_MAX)),
      batch_first(flag(spec.attrs, "batch_first")),
      last_only(flag(spec.attrs, "last_only")),
      lengths(spec.input_count > 1 && spec.input(1).dtype == RTA_INT64) {
  const int64_t states = product(layers, directions, batch), time_steps = last_only ? 1 : time;
  const int most = std::strcmp(spec.op, "lstm") == 0 ? 3 : 2;
  expect_rows(product(time, batch));
  const int first_state = lengths ? 2 : 1;
  expect_inputs(spec, first_state, most + first_state - 1);
  expect_outputs(spec, 1, most);
  expect_shape(spec.input(0), product(time, batch), inputs, "x");
  expect_shape(spec.output(0), product(time_steps, batch), directions * hidden, "y");
  expect_dtype(spec.input(0), RTA_FLOAT32, RTA_INT8, "x");
  expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
  if (lengths) expect_value(spec.input(1), RTA_INT64, batch, 1, "lengths");
  for (int i = first_state; i < spec.input_count; ++i)
    expect_value(spec.input(i), RTA_FLOAT32, states, hidden, "a state");
  for (int i = 1; i < spec.output_count; ++i) expect_value(spec.output(i), RTA_FLOAT32, states, hidden, "a state");
  expect(inputs <= kMostUnits, "%lld inputs", static_cast<long long>(inputs));

  // A plan runs at most so many samples at a time, whatever its other values are.
  const bool stateless = spec.input_count == first_state && spec.output_count == 1;
  int64_t steps = std::max(time * batch, stateless ? int64_t{1} : states);
  samples_together = std::max({int64_t{1}, kBlockRows / steps, time > 1 ? kTogether / batch : 1});
  most_streams = samples_together * batch;
  x_step = batch_first ? 1 : batch;
  y_step = last_only ? 0 : x_step;
  const size_t bytes = static_cast<size_t>(most_streams) * sizeof(int64_t);
  int64_t* tables[3];
  for (int64_t*& table : tables) table = static_cast<int64_t*>(spec.arena->take(bytes));
  for (int64_t n = 0; n < most_streams; ++n) {
    const int64_t sample = n / batch, b = n % batch;
    tables[0][n] = sample * states + b;
    tables[1][n] = sample * time * batch + (batch_first ? b * time : b);
    tables[2][n] = sample * time_steps * batch + (batch_first ? b * time_steps : b);
  }
  state_row = tables[0];
  x_row = tables[1];
  y_row = tables[2];
}

void RecurrentShape::expect_short() const {
  const int64_t most = std::max(inputs, layers > 1 ? directions * hidden : hidden);
  expect(most <= kMaxInt8Products, "sums of %lld products, where int8 and sparse weights take %lld",
         static_cast<long long>(most), static_cast<long long>(kMaxInt8Products));
}

RecurrentLengths::RecurrentLengths(const StageSpec& spec, const RecurrentShape& shape)
    : from(shape.lengths ? spec.in(1) : GraphIO{-1, 0, 0, 0}),
      batch(shape.batch),
      longest(spec.attrs.has("longest") && flag(spec.attrs, "longest")) {
  expect(shape.lengths || !longest, "a longest sequence without lengths");
}

void RecurrentLengths::read(const Run& run, int64_t streams, int64_t time, int64_t* to) const {
  for (int64_t n = 0; n < streams; ++n) {
    const int64_t length = *reinterpret_cast<const int64_t*>(from.row(run, n));
    to[n] = length < 1 ? 1 : length > time ? time : length;
    if (to[n] != length) outside.note(length);
  }
  for (int64_t n = 0; longest && n < streams; n += batch) {
    const int64_t most = *std::max_element(to + n, to + n + batch);
    if (most != time) outside.note(most);
  }
}

const char* RecurrentLengths::refusal(int64_t time) const {
  int64_t length;
  if (!outside.take(&length)) return nullptr;
  const bool short_of = length > 0 && length < time;
  std::snprintf(reason, sizeof reason, "a %slength of %lld: expected %s%lld, the time steps of x",
                short_of ? "longest " : "", static_cast<long long>(length), short_of ? "" : "1 to ",
                static_cast<long long>(time));
  return reason;
}

size_t ScratchLayout::take(int64_t count, int64_t bytes) {
  const size_t at = used_;
  used_ += (static_cast<size_t>(product(count, bytes)) + 63) / 64 * 64;
  return at;
}

const char* recurrent_name(const char* what, int64_t layer, int64_t direction, const char* ending) {
  static thread_local char name[96];
  std::snprintf(name, sizeof name, "%s_l%lld%s%s", what, static_cast<long long>(layer), direction ? "_reverse" : "",
                ending);
  return name;
}

const char* recurrent_reject(const Attrs& attrs) {
  if (attrs.text_is("layout", "sparse")) return "packs dense weights, and these are to be packed sparse";
  for (const char* dtype : {"float32", "int8", kInt4Name})
    if (attrs.text_is("weight_dtype", dtype)) return nullptr;
  return "takes float32, int8 and int4 weights";
}

const char* recurrent_float32_reject(const Attrs& attrs) {
  if (attrs.text_is("layout", "sparse")) return "packs dense weights, and these are to be packed sparse";
  return attrs.text_is("weight_dtype", "float32") ? nullptr : "takes float32 weights";
}

const char* recurrent_sparse_reject(const Attrs& attrs) {
  if (!attrs.text_is("layout", "sparse")) return "packs weights with many zeros, and these are to be packed dense";
  for (const char* dtype : {"float32", "int8"})
    if (attrs.text_is("weight_dtype", dtype)) return nullptr;
  return "takes float32 and int8 weights";
}

}  // namespace rta
