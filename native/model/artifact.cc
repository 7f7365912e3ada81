// Reads the records of a plan. Every number is looked at before it is used.
#include "artifact.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "_system/dtypes.h"

namespace rta {
namespace {

constexpr char kMagic[8] = {'R', 'T', 'A', 'P', 'L', 'A', 'N', '\n'};
constexpr uint32_t kOrder = 0x01020304;
constexpr size_t kHeader = 128;
constexpr int64_t kMostDims = 8, kMostElements = int64_t{1} << 40;
constexpr uint32_t kMostRecords = 1u << 16, kMostAttributes = 1u << 16;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// Records, one after the other; every one lies within the plan.
class Reader {
 public:
  Reader(const uint8_t* start, size_t size) : at_(start), left_(size) {}
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, bytes(sizeof value), sizeof value);
    return value;
  }
  const uint8_t* bytes(size_t count) {
    if (count > left_) refuse(RTA_BAD_FORMAT, "the plan ends within a record");
    const uint8_t* found = at_;
    at_ += count;
    left_ -= count;
    return found;
  }
  size_t left() const { return left_; }
  void align() { bytes(left_ % 8); }  // records begin at multiples of 8 from the end of the plan, and so from its start

 private:
  const uint8_t* at_;
  size_t left_;
};

// Whether the bytes are characters, none longer than it has to be.
bool is_utf8(const uint8_t* at, size_t size) {
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
  for (const uint8_t* end = at + size; at < end;) {
    const int more = *at < 0x80 ? 0 : *at >> 5 == 6 ? 1 : *at >> 4 == 14 ? 2 : *at >> 3 == 30 ? 3 : -1;
    if (more < 0 || more >= end - at) return false;
    uint32_t character = more ? *at & (0x3fu >> more) : *at;
    for (int i = 1; i <= more; ++i) {
      if (at[i] >> 6 != 2) return false;
      character = character << 6 | (at[i] & 0x3fu);
    }
    if (character < kLeast[more] || character > 0x10ffff || character >> 11 == 0x1b) return false;
    at += more + 1;
  }
  return true;
}

class Texts {
 public:
  Texts(const uint8_t* start, size_t size) : start_(reinterpret_cast<const char*>(start)), size_(size) {
    if (size == 0 || start_[size - 1] != 0) refuse(RTA_BAD_FORMAT, "the texts of the plan do not end");
    if (!is_utf8(start, size)) refuse(RTA_BAD_FORMAT, "the texts of the plan are not UTF-8");
  }
  const char* at(uint64_t offset) const {
    if (offset >= size_ || (offset && start_[offset - 1] != 0))
      refuse(RTA_BAD_FORMAT, "no text begins at byte %llu of %zu", (unsigned long long)offset, size_);
    return start_ + offset;
  }

 private:
  const char* start_;
  size_t size_;
};

rta_dtype dtype_of(uint32_t number) {
  if (number > RTA_INT16) refuse(RTA_BAD_FORMAT, "a dtype numbered %u", number);
  return static_cast<rta_dtype>(number);
}

struct Header {
  char magic[8];
  uint32_t version, order;
  uint64_t data_start, plan_bytes, file_bytes, packed_bytes;
  int64_t streams, memory, batch_least, batch_most;
  uint32_t values, stages, inputs, outputs, text_bytes, name;
  uint64_t states_at, state_bytes, prepacked_at;
};
static_assert(sizeof(Header) == kHeader);

Header header_of(const Bytes& bytes) {
  uint64_t length;
  if (bytes.size() < 8) refuse(RTA_BAD_FORMAT, "%zu bytes are no model", bytes.size());
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - 8 || bytes.size() - 8 - length < kHeader)
    refuse(RTA_BAD_FORMAT, "cut short, or no model of rt.save: a header of %llu bytes in a file of %zu",
           (unsigned long long)length, bytes.size());
  const size_t start = 8 + static_cast<size_t>(length);
  Header h;
  std::memcpy(&h, bytes.data() + start, sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) refuse(RTA_BAD_FORMAT, "its first tensor is no plan");
  if (h.order == __builtin_bswap32(kOrder)) refuse(RTA_BAD_FORMAT, "it was written with the other byte order");
  if (h.order != kOrder) refuse(RTA_BAD_FORMAT, "its first tensor is no plan");
  if (h.version > RTA_FORMAT_VERSION)
    refuse(RTA_NEWER, "it has version %u of the format, and this reads versions up to %d", h.version,
           RTA_FORMAT_VERSION);
  if (h.version == 0) refuse(RTA_BAD_FORMAT, "it has version 0 of the format");
  if (h.file_bytes != bytes.size())
    refuse(RTA_BAD_FORMAT, "%zu bytes of the %llu that were written", bytes.size(), (unsigned long long)h.file_bytes);
  if (h.data_start != start || start % 64 || h.plan_bytes > bytes.size() - start || h.plan_bytes < kHeader ||
      h.plan_bytes % 8)
    refuse(RTA_BAD_FORMAT, "the plan does not lie where it should");
  if (h.prepacked_at % 64 || h.prepacked_at > bytes.size() - start || (h.prepacked_at != 0) != (h.version > 1))
    refuse(RTA_BAD_FORMAT, "the packed weights do not lie where they should");
  if ((h.state_bytes && !h.streams) || h.states_at % 64 || h.states_at > bytes.size() - start ||
      h.state_bytes > bytes.size() - start - h.states_at)
    refuse(RTA_BAD_FORMAT, "the states do not lie where they should");
  if (h.values > kMostRecords || h.stages > kMostRecords || h.inputs > 128 || h.outputs > 128 || !h.inputs ||
      !h.outputs || !h.stages)
    refuse(RTA_BAD_FORMAT, "%u values, %u stages, %u inputs, %u outputs", h.values, h.stages, h.inputs, h.outputs);
  return h;
}

rta_tensor edge(Reader& reader, const Texts& texts, const std::vector<Artifact::ValueRecord>& values, rta_role role,
                uint32_t id) {
  rta_tensor tensor{};
  tensor.name = texts.at(reader.take<uint32_t>());
  const uint32_t value = reader.take<uint32_t>(), lead = reader.take<uint32_t>(), rank = reader.take<uint32_t>();
  if (value != id || value >= values.size() || values[value].role != role)
    refuse(RTA_BAD_FORMAT, "%s is not the value that it should be", tensor.name);
  if (rank > kMostDims || lead > rank) refuse(RTA_BAD_FORMAT, "%s has %u of %u dimensions", tensor.name, lead, rank);
  tensor.dtype = values[value].dtype;
  tensor.rank = static_cast<int>(rank);
  tensor.lead = static_cast<int>(lead);
  int64_t elements = 1, samples = 1;
  for (uint32_t d = 0; d < kMostDims; ++d) {
    const int64_t size = reader.take<int64_t>();
    if (d < rank) tensor.shape[d] = size;
    const bool open = d < lead && size == -1;
    if (d >= rank ? size != 0 : !open && (size < 0 || size > kMostElements))
      refuse(RTA_BAD_FORMAT, "%s has a dimension of %lld", tensor.name, (long long)size);
    if (d >= rank || open) continue;
    int64_t& all = d < lead ? samples : elements;
    if (size && all > kMostElements / size) refuse(RTA_BAD_FORMAT, "%s is too large", tensor.name);
    all *= size;
  }
  if (elements != values[value].steps * values[value].width)
    refuse(RTA_BAD_FORMAT, "%s has %lld elements a sample, its value %lld", tensor.name, (long long)elements,
           (long long)(values[value].steps * values[value].width));
  tensor.sample_elements = elements;
  return tensor;
}

// The product of the dimensions of samples that are not open.
int64_t fixed_samples(const rta_tensor& tensor) {
  int64_t all = 1;
  for (int d = 0; d < tensor.lead; ++d)
    if (tensor.shape[d] != -1) all *= tensor.shape[d];
  return all;
}

Artifact::ValueRecord value(Reader& reader) {
  const uint32_t dtype = reader.take<uint32_t>(), role = reader.take<uint32_t>();
  const int64_t steps = reader.take<int64_t>(), width = reader.take<int64_t>();
  if (role > RTA_STATE) refuse(RTA_BAD_FORMAT, "a value of role %u", role);
  if (steps < 1 || width < 0 || steps > kMostElements || (width && steps > kMostElements / width))
    refuse(RTA_BAD_FORMAT, "a value of %lld steps of width %lld", (long long)steps, (long long)width);
  return {dtype_of(dtype), static_cast<rta_role>(role), steps, width};
}

// 16 bytes: name, kind, dtype, elements of a tensor, and the number, or where the text or the tensor is.
rta_attr attribute(Reader& reader, const Texts& texts, const Bytes& bytes, uint64_t data_start) {
  rta_attr attr{};
  attr.name = texts.at(reader.take<uint16_t>());
  const auto kind = reader.take<uint8_t>(), dtype = reader.take<uint8_t>();
  const uint32_t count = reader.take<uint32_t>();
  const uint64_t number = reader.take<uint64_t>();
  if (kind > RTA_ATTR_TENSOR) refuse(RTA_BAD_FORMAT, "attribute %s of kind %u", attr.name, kind);
  attr.kind = static_cast<rta_attr_kind>(kind);
  if (attr.kind == RTA_ATTR_INT) attr.integer = static_cast<int64_t>(number);
  if (attr.kind == RTA_ATTR_FLOAT) attr.real = std::bit_cast<double>(number);
  if (attr.kind == RTA_ATTR_TEXT) attr.text = texts.at(number);
  if (attr.kind != RTA_ATTR_TENSOR) return attr;
  attr.dtype = dtype_of(dtype);
  attr.count = count;
  const uint64_t size = uint64_t{count} * static_cast<uint64_t>(element_bytes(attr.dtype)),
                 room = bytes.size() - data_start;
  if (number % 64 || number > room || size > room - number)
    refuse(RTA_BAD_FORMAT, "tensor %s lies at byte %llu of %llu", attr.name, (unsigned long long)number,
           (unsigned long long)room);
  attr.data = bytes.data() + data_start + number;
  return attr;
}

Artifact::StageRecord stage(Reader& reader, const Texts& texts, const Bytes& bytes, uint64_t data_start,
                            uint32_t values) {
  Artifact::StageRecord record;
  record.op = texts.at(reader.take<uint32_t>());
  record.name = texts.at(reader.take<uint32_t>());
  const uint32_t inputs = reader.take<uint16_t>(), outputs = reader.take<uint16_t>(), attrs = reader.take<uint32_t>();
  if (!inputs || !outputs) refuse(RTA_BAD_FORMAT, "stage %s has no inputs, or no outputs", record.name);
  if (attrs > kMostAttributes) refuse(RTA_BAD_FORMAT, "stage %s has %u attributes", record.name, attrs);
  for (auto [count, ids] : {std::pair{inputs, &record.inputs}, std::pair{outputs, &record.outputs}})
    for (uint32_t i = 0; i < count; ++i) {
      ids->push_back(static_cast<int>(reader.take<uint32_t>()));
      if (static_cast<uint32_t>(ids->back()) >= values) refuse(RTA_BAD_FORMAT, "stage %s: no such value", record.name);
    }
  reader.align();
  if (attrs > reader.left() / 16) refuse(RTA_BAD_FORMAT, "the plan ends within a record");
  record.attrs.reserve(attrs);
  for (uint32_t i = 0; i < attrs; ++i) record.attrs.push_back(attribute(reader, texts, bytes, data_start));
  return record;
}

}  // namespace

Artifact::Artifact(const Bytes& bytes, unsigned flags) {
  const Header h = header_of(bytes);
  if (!(flags & RTA_UNCHECKED)) {
    const Seal seal(bytes);
    if (!(seal.digest == seal.computed)) refuse(RTA_BAD_DIGEST, "its bytes are not those that were written");
  }
  Reader reader(bytes.data() + h.data_start, static_cast<size_t>(h.plan_bytes));
  reader.bytes(kHeader);
  const Texts texts(reader.bytes(h.text_bytes),
                    h.text_bytes);  // zeros behind the last bring the records to their place
  reader.align();
  this->texts = texts.at(0);
  text_bytes = h.text_bytes;
  name = texts.at(h.name);
  streams = h.streams;
  memory = h.memory;
  batch_least = h.batch_least;
  batch_most = h.batch_most;
  packed_bytes = static_cast<size_t>(h.packed_bytes);
  states = bytes.data() + h.data_start + h.states_at;
  state_bytes = static_cast<size_t>(h.state_bytes);
  prepacked = h.prepacked_at ? bytes.data() + h.data_start + h.prepacked_at : nullptr;  // to the end of the file
  prepacked_bytes = h.prepacked_at ? bytes.size() - h.data_start - static_cast<size_t>(h.prepacked_at) : 0;
  if (streams < 0 || streams > kMostElements || memory < -1 || batch_least < 0 || batch_most < -1 ||
      (batch_most >= 0 && batch_most < batch_least))
    refuse(RTA_BAD_FORMAT, "%lld streams, batches of %lld to %lld", (long long)streams, (long long)batch_least,
           (long long)batch_most);

  // Memory that is asked for: packed weights, and values of a block of samples, or states of all streams.
  const uint64_t most = std::min<uint64_t>(
      flags & RTA_LARGE ? uint64_t{1} << 42 : uint64_t{256} * bytes.size() + (uint64_t{64} << 20), SIZE_MAX / 4);
  most_bytes = most;
  const auto too_much = [most] {
    refuse(RTA_BAD_FORMAT,
           "a plan that asks for more than %llu bytes of memory; where its origin is trusted, open it with RTA_LARGE",
           (unsigned long long)most);
  };
  uint64_t asked = h.packed_bytes;
  if (asked > most) too_much();
  bool holds = false;
  for (uint32_t i = 0; i < h.values; ++i) {
    values.push_back(value(reader));
    const ValueRecord& v = values.back();
    const bool is_state = v.role == RTA_STATE;
    const uint64_t pitch = static_cast<uint64_t>(v.width * element_bytes(v.dtype)) + 64, steps = v.steps,
                   held = is_state ? streams : 32;
    holds |= is_state;
    const bool too_many = is_state && held > most / steps;
    const uint64_t rows = too_many ? 0 : is_state ? held * steps : std::max(held, steps);
    if (too_many || rows > most || pitch > most / std::max<uint64_t>(rows, 1) || (asked += pitch * rows) > most)
      too_much();
  }
  if (holds != (streams > 0)) refuse(RTA_BAD_FORMAT, "%lld streams for what its values are", (long long)streams);
  for (uint32_t i = 0; i < h.inputs; ++i) inputs.push_back(edge(reader, texts, values, RTA_INPUT, i));
  for (uint32_t i = 0; i < h.outputs; ++i) outputs.push_back(edge(reader, texts, values, RTA_OUTPUT, h.inputs + i));
  // An output has the samples of the inputs: what is said of them beside those of a call is no more.
  int64_t most_samples = 1;
  for (const rta_tensor& tensor : inputs) most_samples = std::max(most_samples, fixed_samples(tensor));
  for (const rta_tensor& tensor : outputs)
    if (fixed_samples(tensor) > most_samples)
      refuse(RTA_BAD_FORMAT, "%s has %lld samples, the inputs %lld", tensor.name, (long long)fixed_samples(tensor),
             (long long)most_samples);
  for (uint32_t i = 0; i < h.values; ++i)
    if ((values[i].role == RTA_INPUT) != (i < h.inputs) ||
        (values[i].role == RTA_OUTPUT) != (i >= h.inputs && i < h.inputs + h.outputs))
      refuse(RTA_BAD_FORMAT, "value %u has a role that is not its own", i);
  for (uint32_t i = 0; i < h.stages; ++i) stages.push_back(stage(reader, texts, bytes, h.data_start, h.values));
  if (reader.left()) refuse(RTA_BAD_FORMAT, "%zu bytes behind the last record", reader.left());
}

}  // namespace rta
