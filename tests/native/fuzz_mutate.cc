// Changes to a file that knows its records (docs/reference/artifact.md): most files that come out are whole but wrong
// in a number or two, so that they reach the checks of the operators.
#include <algorithm>
#include <cstring>

#include "fuzz_model.h"

namespace fuzz {
namespace {

constexpr int64_t kNumbers[] = {0,
                                1,
                                2,
                                3,
                                4,
                                5,
                                7,
                                8,
                                9,
                                15,
                                16,
                                17,
                                31,
                                32,
                                33,
                                63,
                                64,
                                65,
                                100,
                                127,
                                128,
                                129,
                                255,
                                256,
                                257,
                                1000,
                                4096,
                                65535,
                                65536,
                                65537,
                                1 << 20,
                                INT32_MAX - 1,
                                INT32_MAX,
                                1ll << 31,
                                1ll << 32,
                                1ll << 33,
                                1ll << 40,
                                1ll << 61,
                                1ll << 62,
                                INT64_MAX,
                                -1,
                                -2,
                                -3,
                                -16,
                                -127,
                                -128,
                                -129,
                                -65536,
                                INT32_MIN,
                                INT64_MIN,
                                INT64_MIN + 1};

template <class T>
T get(const Bytes& file, size_t at) {
  T value{};
  if (at + sizeof value <= file.size()) std::memcpy(&value, file.data() + at, sizeof value);
  return value;
}
template <class T>
void put(Bytes& file, size_t at, T value) {
  if (at + sizeof value <= file.size()) std::memcpy(file.data() + at, &value, sizeof value);
}

struct Stage {
  size_t at, ids, attrs;  // bytes of the file
  uint32_t inputs, outputs, count;
};

// Where things are in a file. Empty where it cannot be read.
struct Layout {
  size_t plan = 0, texts = 0, text_bytes = 0, values = 0, edges = 0, end = 0;
  uint32_t value_count = 0, edge_count = 0, input_count = 0;
  std::vector<Stage> stages;

  explicit Layout(const Bytes& file) {
    const uint64_t length = get<uint64_t>(file, 0);
    if (file.size() < 8 || length > file.size() - 8 || file.size() - 8 - length < 128) return;
    const size_t start = 8 + static_cast<size_t>(length);
    const uint64_t bytes = get<uint64_t>(file, start + 24);
    if (bytes > file.size() - start || bytes < 128) return;
    value_count = get<uint32_t>(file, start + 80);
    const uint32_t stage_count = get<uint32_t>(file, start + 84);
    input_count = get<uint32_t>(file, start + 88);
    edge_count = input_count + get<uint32_t>(file, start + 92);
    text_bytes = get<uint32_t>(file, start + 96);
    texts = start + 128;
    end = start + static_cast<size_t>(bytes);
    if (text_bytes > end - texts || value_count > 1000 || edge_count > 256) return;
    const auto aligned = [&](size_t at) { return at + (end - at) % 8; };
    values = aligned(texts + text_bytes);
    edges = values + size_t{value_count} * 24;
    size_t at = edges + size_t{edge_count} * 80;
    for (uint32_t i = 0; i < stage_count && at + 16 <= end; ++i) {
      Stage stage{
          at, at + 16, 0, get<uint16_t>(file, at + 8), get<uint16_t>(file, at + 10), get<uint32_t>(file, at + 12)};
      stage.attrs = stage.ids + 4 * (size_t{stage.inputs} + stage.outputs);
      if (stage.attrs > end) break;
      stage.attrs = aligned(stage.attrs);
      if (stage.count > (end - stage.attrs) / 16) break;
      at = stage.attrs + 16 * size_t{stage.count};
      stages.push_back(stage);
    }
    if (!stages.empty() && value_count && edges <= end) plan = start;
  }
};

int64_t number(Random& random, int64_t old) {
  switch (random.below(6)) {
    case 0: return old + 1;
    case 1: return old - 1;
    case 2: return old * static_cast<int64_t>(2 + random.below(3));
    case 3: return old / static_cast<int64_t>(2 + random.below(3));
    default: return kNumbers[random.below(std::size(kNumbers))];
  }
}

template <class T>
void nudge(Bytes& file, size_t at, Random& random) {
  const T old = get<T>(file, at);
  const bool small = static_cast<uint64_t>(old) < (1ull << 32);
  put(file, at, small ? static_cast<T>(number(random, static_cast<int64_t>(old))) : T(0));
}

void real(Bytes& file, size_t at, bool wide, Random& random) {
  constexpr double kReals[] = {0.0,
                               -0.0,
                               1.0,
                               -1.0,
                               0.5,
                               1e-3,
                               1e3,
                               1e30,
                               -1e30,
                               1e-40,
                               3e38,
                               1e300,
                               -1e300,
                               2e-308,
                               1e9,
                               __builtin_nan(""),
                               __builtin_inf(),
                               -__builtin_inf()};
  const double value = kReals[random.below(std::size(kReals))];
  if (wide)
    put(file, at, value);
  else
    put(file, at, static_cast<float>(value));
}

// Another text of the table.
uint32_t text(const Layout& found, const Bytes& file, Random& random) {
  size_t at = random.below(found.text_bytes);
  while (at > 0 && file[found.texts + at - 1] != 0) --at;
  return static_cast<uint32_t>(at);
}

void change_tensor(Bytes& file, const Layout& found, size_t attr, Random& random) {
  static constexpr size_t kBytes[] = {4, 1, 8, 4, 1, 2};
  const uint8_t dtype = get<uint8_t>(file, attr + 3);
  const uint32_t count = get<uint32_t>(file, attr + 4);
  const uint64_t place = get<uint64_t>(file, attr + 8);
  if (dtype > 5 || !count || place > file.size()) return;
  const auto element = [&](uint64_t i) { return found.plan + place + i * kBytes[dtype]; };
  for (uint64_t left = random.one_in(3) ? 1 + random.below(8) : 1; left; --left) {
    const size_t at = element(random.below(count)), other = element(random.below(count));
    if (dtype == 0) {
      real(file, at, false, random);
    } else if (random.one_in(3)) {  // another entry's
      if (std::max(at, other) + kBytes[dtype] <= file.size())
        std::memmove(file.data() + at, file.data() + other, kBytes[dtype]);
    } else if (dtype == 2) {
      nudge<int64_t>(file, at, random);
    } else if (dtype == 3) {
      put(file, at, static_cast<int32_t>(number(random, get<int32_t>(file, at))));
    } else if (at < file.size()) {
      file[at] = static_cast<uint8_t>(random.bits());
    }
  }
}

void change_attribute(Bytes& file, const Layout& found, const Stage& stage, Random& random) {
  if (!stage.count) return;
  const size_t at = stage.attrs + 16 * random.below(stage.count), other = stage.attrs + 16 * random.below(stage.count);
  const uint8_t kind = get<uint8_t>(file, at + 2);
  switch (random.below(16)) {
    case 0: return put(file, at, static_cast<uint16_t>(text(found, file, random)));
    case 1: return put(file, at + 2, static_cast<uint8_t>(random.below(5)));
    case 2: return put(file, at + 3, static_cast<uint8_t>(random.below(7)));
    case 3: return nudge<uint32_t>(file, at + 4, random);
    case 4: {  // the contents of another one under this name
      uint8_t kept[14];
      if (std::max(at, other) + 16 > file.size()) return;
      std::memcpy(kept, file.data() + other + 2, sizeof kept);
      std::memcpy(file.data() + at + 2, kept, sizeof kept);
      return;
    }
    default: break;
  }
  switch (kind) {
    case 0:
      return put(file, at + 8,
                 number(random, std::clamp<int64_t>(get<int64_t>(file, at + 8), -(1ll << 40), 1ll << 40)));
    case 1: return real(file, at + 8, true, random);
    case 2: return put(file, at + 8, uint64_t{text(found, file, random)});
    default:
      if (random.one_in(12)) return put(file, at + 8, get<uint64_t>(file, at + 8) + 64 * random.below(5) - 128);
      return change_tensor(file, found, at, random);
  }
}

// A value, and the sizes of its tensor with it.
void change_value(Bytes& file, const Layout& found, Random& random) {
  const uint64_t id = random.below(found.value_count);
  const size_t at = found.values + 24 * id;
  int64_t steps = get<int64_t>(file, at + 8), width = get<int64_t>(file, at + 16);
  const auto other = found.values + 24 * random.below(found.value_count);
  switch (random.below(7)) {
    case 0: put(file, at, static_cast<uint32_t>(random.below(7))); return;
    case 1: put(file, at + 4, static_cast<uint32_t>(random.below(5))); return;
    case 2: std::swap(steps, width); break;
    case 3: steps = get<int64_t>(file, other + 8), width = get<int64_t>(file, other + 16); break;
    case 4: steps = number(random, std::clamp<int64_t>(steps, -(1ll << 40), 1ll << 40)); break;
    default: width = number(random, std::clamp<int64_t>(width, -(1ll << 40), 1ll << 40));
  }
  put(file, at + 8, steps);
  put(file, at + 16, width);
  if (id >= found.edge_count || random.one_in(8)) return;
  const size_t edge = found.edges + 80 * id;
  const uint32_t lead = std::min<uint32_t>(get<uint32_t>(file, edge + 8), 6);
  put(file, edge + 12, lead + 2);
  put(file, edge + 16 + 8 * lead, steps);
  put(file, edge + 24 + 8 * lead, width);
  for (uint32_t d = lead + 2; d < 8; ++d) put(file, edge + 16 + 8 * d, int64_t{0});
}

void change_stage(Bytes& file, const Layout& found, const Stage& stage, Random& random) {
  const size_t id = stage.ids + 4 * random.below(stage.inputs + stage.outputs);
  const Stage& other = found.stages[random.below(found.stages.size())];
  switch (random.below(8)) {
    case 0: return put(file, stage.at, get<uint32_t>(file, other.at));
    case 1: return put(file, stage.at, text(found, file, random));
    case 2: return nudge<uint16_t>(file, stage.at + 8, random);
    case 3: return nudge<uint16_t>(file, stage.at + 10, random);
    case 4: {  // one input more, one output fewer, or the other way round
      const int by = random.one_in(2) ? 1 : -1;
      put(file, stage.at + 8, static_cast<uint16_t>(stage.inputs + by));
      put(file, stage.at + 10, static_cast<uint16_t>(stage.outputs - by));
      return;
    }
    default: return put(file, id, static_cast<uint32_t>(random.below(found.value_count + (random.one_in(20) ? 3 : 0))));
  }
}

void change_header(Bytes& file, const Layout& found, Random& random) {
  if (random.one_in(2)) return nudge<int64_t>(file, found.plan + 16 + 8 * random.below(8), random);
  if (random.one_in(2)) return nudge<uint32_t>(file, found.plan + 80 + 4 * random.below(6), random);
  nudge<int64_t>(file, found.plan + 104 + 8 * random.below(3), random);
}

void change_edge(Bytes& file, const Layout& found, Random& random) {
  const size_t at = found.edges + 80 * random.below(found.edge_count);
  if (random.one_in(2)) return put(file, at + 16 + 8 * random.below(8), kNumbers[random.below(std::size(kNumbers))]);
  put(file, at + 4 * random.below(4), static_cast<uint32_t>(random.below(9)));
}

void change_bytes(Bytes& file, size_t from, size_t to, Random& random) {
  if (from >= to) return;
  for (uint64_t left = 1 + random.below(4); left; --left) {
    const size_t at = from + random.below(to - from);
    file[at] =
        random.one_in(2) ? static_cast<uint8_t>(random.bits()) : file[at] ^ static_cast<uint8_t>(1 << random.below(8));
  }
}

// A head or record of packed weights, or what they are.
void change_prepacked(Bytes& file, const Layout& found, size_t section, Random& random) {
  const size_t rows = 1 + found.stages.size(), row = section + 64 * random.below(rows);
  switch (random.below(6)) {
    case 0: return nudge<int64_t>(file, row + 16 * (row > section ? 2 : 1) + 8 * random.below(3), random);
    case 1: return nudge<uint32_t>(file, row + 4 * random.below(16), random);
    case 2:  // as a record says that it lies
      put(file, row + 48, get<uint64_t>(file, row + 48) + 64 * random.below(3) - 64);
      return put(file, section + 16, get<uint64_t>(file, section + 16) + 64 * random.below(3) - 64);
    case 3:
    case 4: {  // sparse ones begin with a head, ends and starts, which lead somewhere
      const size_t record = section + 64 * (1 + random.below(found.stages.size()));
      const size_t weights = section + static_cast<size_t>(get<uint64_t>(file, record + 40));
      if (weights >= file.size()) return;
      if (random.one_in(2)) return nudge<int64_t>(file, weights + 8 * random.below(random.one_in(2) ? 3 : 40), random);
      return nudge<uint16_t>(file, weights + 64 + 2 * random.below(400), random);
    }
    default: return change_bytes(file, section + 64 * rows, file.size(), random);
  }
}

// The launches of persistent kernels: a record, the head of the code, or where the file's header says that they are.
void change_persistent(Bytes& file, size_t section, size_t plan, Random& random) {
  switch (random.below(8)) {
    case 0: {
      constexpr char kName[] = "\"persistent\"";
      const auto* name = std::search(file.data(), file.data() + plan, kName, kName + sizeof kName - 1);
      const auto at = static_cast<size_t>(name - file.data());
      return change_bytes(file, at, std::min(at + 80, plan), random);
    }
    case 1: return nudge<int64_t>(file, section + 8 * random.below(8), random);
    case 2: return nudge<int64_t>(file, section + 8 * random.below(512), random);
    case 3: return change_bytes(file, section, std::min(section + 4096, file.size()), random);
    default: return nudge<uint32_t>(file, section + 64 + 4 * random.below(300), random);
  }
}

}  // namespace

void mutate(Bytes& file, Random& random) {
  const Layout found(file);
  if (!found.plan) return change_bytes(file, 0, file.size(), random);
  const Stage& stage = found.stages[random.below(found.stages.size())];
  const uint64_t section = get<uint64_t>(file, found.plan + 120);
  if (section && section < file.size() && random.one_in(3))
    return change_prepacked(file, found, found.plan + static_cast<size_t>(section), random);
  constexpr char kStays[] = "RTASTAYS";
  const auto* stays = std::search(file.data(), file.data() + file.size(), kStays, kStays + sizeof kStays - 1);
  const auto persistent = static_cast<size_t>(stays - file.data());
  if (persistent < file.size() && random.one_in(2)) return change_persistent(file, persistent, found.plan, random);
  switch (random.below(40)) {
    case 0: return change_bytes(file, 0, file.size(), random);
    case 1: return change_bytes(file, found.plan, found.end, random);
    case 2: return change_header(file, found, random);
    case 3: return change_edge(file, found, random);
    case 4:
      if (random.one_in(4)) file.resize(random.below(file.size() + 1));
      return;
    default: break;
  }
  switch (random.below(10)) {
    case 0:
    case 1: return change_value(file, found, random);
    case 2: return change_stage(file, found, stage, random);
    default: return change_attribute(file, found, stage, random);
  }
}

}  // namespace fuzz
