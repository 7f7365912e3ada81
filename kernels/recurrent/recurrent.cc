// The shape of a recurrent stage, read and checked once.
#include "recurrent/recurrent.h"

#include "_common/int4_pack.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace rta {

RecurrentShape::RecurrentShape(const StageSpec& spec)
    : inputs(spec.input(0).width),
      hidden(spec.attrs.integer("hidden")),
      layers(spec.attrs.integer("layers")),
      directions(spec.attrs.integer("directions")),
      time(spec.attrs.integer("time")),
      batch(spec.attrs.integer("batch")),
      batch_first(spec.attrs.integer("batch_first") != 0),
      last_only(spec.attrs.integer("last_only") != 0) {
  if (hidden < 1 || layers < 1 || directions < 1 || directions > 2 || time < 1 || batch < 1)
    fail("a recurrent stage of %lld units, %lld layers, %lld directions, %lld time steps of %lld streams",
         static_cast<long long>(hidden), static_cast<long long>(layers), static_cast<long long>(directions),
         static_cast<long long>(time), static_cast<long long>(batch));
  const int64_t states = layers * directions * batch, time_steps = last_only ? 1 : time;
  const auto expect = [](const Value& v, int64_t steps, int64_t width) {
    if (v.steps != steps || v.width != width)
      fail("a value of %lld rows by %lld where the stage has %lld by %lld", static_cast<long long>(v.steps),
           static_cast<long long>(v.width), static_cast<long long>(steps), static_cast<long long>(width));
  };
  expect(spec.input(0), time * batch, inputs);
  expect(spec.output(0), time_steps * batch, directions * hidden);
  for (int i = 1; i < spec.input_count; ++i) expect(spec.input(i), states, hidden);
  for (int i = 1; i < spec.output_count; ++i) expect(spec.output(i), states, hidden);

  // A plan runs at most so many samples at a time, whatever its other values are.
  int64_t steps = std::max(time * batch, spec.input_count > 1 || spec.output_count > 1 ? states : int64_t{1});
  most_streams = std::max(int64_t{1}, kBlockRows / steps) * batch;
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

const char* recurrent_sparse_reject(const Attrs& attrs) {
  if (!attrs.text_is("layout", "sparse")) return "packs weights with many zeros, and these are to be packed dense";
  for (const char* dtype : {"float32", "int8"})
    if (attrs.text_is("weight_dtype", dtype)) return nullptr;
  return "takes float32 and int8 weights";
}

}  // namespace rta
