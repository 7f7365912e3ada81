// Reads what is stored of persistent kernels. Every number is looked at before it is used.
#include "section.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rta::gpu {
namespace {

constexpr char kName[] = "persistent", kMagic[8] = {'R', 'T', 'A', 'S', 'T', 'A', 'Y', 'S'};
constexpr uint32_t kVersion = 3, kMostLaunches = 64, kMostParameters = 256;
constexpr uint64_t kMostRoom = uint64_t{1} << 36, kMostNumbers = 1u << 20;
constexpr unsigned kMostBlocks = 1u << 12, kMostThreads = 1024, kMostShared = 227u << 10;
constexpr size_t kElf = 64, kMachineAt = 18, kFlagsAt = 48;
constexpr uint16_t kCudaMachine = 190;
constexpr uint32_t kNoBytes = 8;  // SHT_NOBITS

struct Head {
  char magic[8];
  uint32_t version, launches;
  uint64_t bytes;
  uint64_t unused[5];
};
static_assert(sizeof(Head) == 64);

struct Record {
  uint32_t bytes, capability, blocks, threads, shared_bytes, cluster, cooperative, parameters;
  uint32_t inputs, outputs, commands, states;
  uint64_t code_at, code_bytes;
  char entry[64], name[128], key[32];
  uint64_t recipe_at, recipe_bytes;
};
static_assert(sizeof(Record) == 304);

struct ParameterRecord {
  uint32_t kind, unused;
  uint64_t value, bytes, room;
};
static_assert(sizeof(ParameterRecord) == 32);

// The header of a safetensors file, as far as one name in it is looked for.
class Json {
 public:
  Json(const uint8_t* start, size_t size) : at_(start), end_(start + size) {}

  // Stands behind `"name":` of the outer object, or at the end.
  bool find(const char* name) {
    int depth = 0;
    while (at_ < end_) {
      const uint8_t c = *at_++;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c != '"') continue;
      const uint8_t* text = at_;
      while (at_ < end_ && *at_ != '"') at_ += *at_ == '\\' && end_ - at_ > 1 ? 2 : 1;
      const size_t length = static_cast<size_t>(at_ - text);
      if (at_ < end_) ++at_;
      if (depth == 1 && length == std::strlen(name) && std::memcmp(text, name, length) == 0 && is(":")) return true;
    }
    return false;
  }
  bool is(const char* text) {
    const size_t length = std::strlen(text);
    if (static_cast<size_t>(end_ - at_) < length || std::memcmp(at_, text, length) != 0) return false;
    at_ += length;
    return true;
  }
  bool number(uint64_t& value) {
    const uint8_t* first = at_;
    for (value = 0; at_ < end_ && at_ - first < 16 && *at_ >= '0' && *at_ <= '9'; ++at_)
      value = 10 * value + (*at_ - '0');
    return at_ > first;
  }

 private:
  const uint8_t *at_, *end_;
};

struct Place {
  const uint8_t* at;
  size_t size;
};

Place section_of(const Bytes& bytes) {
  uint64_t length, elements, first, last;
  if (bytes.size() < sizeof length) refuse(RTA_BAD_FORMAT, "%zu bytes are no model", bytes.size());
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) refuse(RTA_BAD_FORMAT, "a header that is longer than the file");
  Json json(bytes.data() + sizeof length, static_cast<size_t>(length));
  if (!json.find(kName))
    refuse(RTA_NO_KERNEL, "it was saved without persistent kernels: rt.save(..., persistent=[\"sm_90\"])");
  if (!json.is("{\"dtype\":\"U8\",\"shape\":[") || !json.number(elements) || !json.is("],\"data_offsets\":[") ||
      !json.number(first) || !json.is(",") || !json.number(last) || !json.is("]}"))
    refuse(RTA_BAD_FORMAT, "its persistent kernels do not lie as rt.save puts them");
  const uint64_t start = sizeof length + length, room = bytes.size() - start;
  if (first > last || last > room || last - first != elements || (start + first) % 64)
    refuse(RTA_BAD_FORMAT, "persistent kernels at %llu to %llu, of %llu bytes", static_cast<unsigned long long>(first),
           static_cast<unsigned long long>(last), static_cast<unsigned long long>(room));
  return {bytes.data() + start + first, static_cast<size_t>(elements)};
}

bool within(uint64_t at, uint64_t size, uint64_t room) { return at % 64 == 0 && at <= room && size <= room - at; }

bool is_text(const char* text, size_t room) {
  const size_t length = strnlen(text, room);
  if (length == 0 || length == room) return false;
  for (size_t i = 0; i < length; ++i)
    if (text[i] < ' ' || text[i] > '~') return false;
  return true;
}

bool is_key(const char* key) {
  return std::all_of(key, key + kKey, [](char c) { return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f'); });
}

template <class T>
T field(const uint8_t* from, size_t at) {
  T value;
  std::memcpy(&value, from + at, sizeof value);
  return value;
}

// Whether it is an ELF file of NVIDIA's for this capability, which its flags say in one of two bytes, and all of its
// parts are there: the driver is told no size, and believes them.
bool is_for(const uint8_t* code, uint64_t size, uint32_t capability) {
  if (size < kElf || std::memcmp(code, "\177ELF", 4) != 0) return false;
  const auto flags = field<uint32_t>(code, kFlagsAt);
  if (field<uint16_t>(code, kMachineAt) != kCudaMachine) return false;
  if (capability != (flags & 0xff) && capability != (flags >> 8 & 0xff)) return false;
  const auto inside = [size](uint64_t at, uint64_t bytes) { return at <= size && bytes <= size - at; };
  const auto programs = field<uint64_t>(code, 32), sections = field<uint64_t>(code, 40);
  const uint64_t program_bytes = field<uint16_t>(code, 54), section_bytes = field<uint16_t>(code, 58);
  const uint64_t count = field<uint16_t>(code, 60);
  if (!inside(programs, program_bytes * field<uint16_t>(code, 56)) || !inside(sections, section_bytes * count))
    return false;
  if (!count || section_bytes < kElf) return false;
  for (uint64_t i = 0; i < count; ++i) {
    const uint8_t* section = code + sections + i * section_bytes;
    const bool has_bytes = field<uint32_t>(section, 4) != kNoBytes;
    if (has_bytes && !inside(field<uint64_t>(section, 24), field<uint64_t>(section, 32))) return false;
  }
  return true;
}

Parameter parameter_of(const uint8_t* at, const Place& all, const Stored& of, uint64_t& asked) {
  ParameterRecord r;
  std::memcpy(&r, at, sizeof r);
  if (r.kind > static_cast<uint32_t>(Kind::kFactors) || r.unused)
    refuse(RTA_BAD_FORMAT, "%s: a parameter of kind %u", of.name, r.kind);
  const Parameter p{static_cast<Kind>(r.kind), r.value, r.bytes, r.room};
  if (p.kind == Kind::kFactors) {
    if (p.bytes != sizeof(float) * static_cast<uint64_t>(of.inputs) || p.room || !within(p.value, p.bytes, all.size))
      refuse(RTA_BAD_FORMAT, "%s: %llu bytes of factors at %llu, of %lld numbers", of.name,
             static_cast<unsigned long long>(p.bytes), static_cast<unsigned long long>(p.value),
             static_cast<long long>(of.inputs));
  } else if (p.kind != Kind::kMemory) {
    if (p.bytes || p.room || (is_word(p.kind) && p.value >> 32) || (p.kind < Kind::kMemory && p.value))
      refuse(RTA_BAD_FORMAT, "%s: a parameter of kind %u with memory of its own", of.name, r.kind);
  } else if (!p.room || p.bytes > p.room || p.room > kMostRoom || (asked += p.room) > kMostRoom ||
             (p.bytes ? !within(p.value, p.bytes, all.size) : p.value != 0)) {
    refuse(RTA_BAD_FORMAT, "%s: %llu bytes of a parameter at %llu, with room for %llu", of.name,
           static_cast<unsigned long long>(p.bytes), static_cast<unsigned long long>(p.value),
           static_cast<unsigned long long>(p.room));
  }
  return p;
}

void take_factors(Stored& s, const uint8_t* from) {
  if (!s.factors.empty()) refuse(RTA_BAD_FORMAT, "%s: factors of its columns twice", s.name);
  s.factors.resize(static_cast<size_t>(s.inputs));
  std::memcpy(s.factors.data(), from, sizeof(float) * s.factors.size());
  if (!std::all_of(s.factors.begin(), s.factors.end(), [](float f) { return std::isfinite(f); }))
    refuse(RTA_BAD_FORMAT, "%s: a factor of a column that is no number", s.name);
}

Stored launch_of(const Place& all, size_t& at) {
  Record r;
  if (all.size - at < sizeof r) refuse(RTA_BAD_FORMAT, "the persistent kernels end within a record");
  const auto* here = reinterpret_cast<const char*>(all.at + at);
  std::memcpy(&r, here, sizeof r);
  if (!is_text(r.entry, sizeof r.entry) || !is_text(r.name, sizeof r.name))
    refuse(RTA_BAD_FORMAT, "a persistent kernel without a name");
  Stored s{static_cast<int>(r.capability),
           r.blocks,
           r.threads,
           r.shared_bytes,
           r.cluster,
           r.cooperative != 0,
           r.commands != 0,
           r.inputs,
           r.outputs,
           r.states,
           nullptr,
           0,
           here + offsetof(Record, entry),
           here + offsetof(Record, name),
           std::string(r.key, kKey),
           {}};
  const bool sane = r.capability >= 80 && r.capability <= 200 && r.blocks && r.blocks <= kMostBlocks && r.threads &&
                    r.threads <= kMostThreads && r.threads % 32 == 0 && r.shared_bytes <= kMostShared &&
                    (r.cluster == 0 || r.cluster == r.blocks) && r.cooperative <= 1 && r.commands <= 1;
  if (!sane || !r.inputs || r.inputs > kMostNumbers || !r.outputs || r.outputs > kMostNumbers ||
      r.states > 64 * kMostNumbers || (r.states && !r.commands))
    refuse(RTA_BAD_FORMAT, "%s: %u blocks of %u threads, %u bytes, %u inputs, %u outputs", s.name, r.blocks, r.threads,
           r.shared_bytes, r.inputs, r.outputs);
  if (r.parameters > kMostParameters || r.bytes != sizeof r + r.parameters * sizeof(ParameterRecord) ||
      r.bytes > all.size - at)
    refuse(RTA_BAD_FORMAT, "%s: a record of %u bytes with %u parameters", s.name, r.bytes, r.parameters);
  if (!within(r.code_at, r.code_bytes, all.size) || !is_for(all.at + r.code_at, r.code_bytes, r.capability))
    refuse(RTA_BAD_FORMAT, "%s: its code is not for sm_%u", s.name, r.capability);
  if (!is_key(r.key) || !within(r.recipe_at, r.recipe_bytes, all.size))
    refuse(RTA_BAD_FORMAT, "%s: a key that is none, or %llu bytes of how it is compiled at %llu", s.name,
           static_cast<unsigned long long>(r.recipe_bytes), static_cast<unsigned long long>(r.recipe_at));
  s.code = all.at + r.code_at;
  s.code_bytes = static_cast<size_t>(r.code_bytes);
  uint64_t asked = 0;
  int seen[4] = {}, sets = 0, inverses = 0, zero_points = 0;
  for (uint32_t i = 0; i < r.parameters; ++i) {
    const Parameter p = parameter_of(all.at + at + sizeof r + i * sizeof(ParameterRecord), all, s, asked);
    if (p.kind == Kind::kFactors) {
      take_factors(s, all.at + p.value);
      continue;
    }
    s.parameters.push_back(p);
    sets += p.kind == Kind::kSecond;
    if (p.kind < Kind::kMemory) ++seen[static_cast<uint32_t>(p.kind)];
    const auto number = static_cast<uint32_t>(p.value);
    if (p.kind == Kind::kInverse && ++inverses) std::memcpy(&s.inverse, &number, sizeof number);
    if (p.kind == Kind::kZeroPoint && ++zero_points) s.zero_point = static_cast<int32_t>(number);
  }
  if (seen[0] != 1 || seen[1] != 1 || seen[2] != 1 || seen[3] > 1 || sets > 1)
    refuse(RTA_BAD_FORMAT, "%s: a kernel without a mailbox", s.name);
  s.rounded = inverses != 0;
  if (inverses != zero_points || inverses > 1 || (s.rounded && !s.commands) || s.zero_point < -128 ||
      s.zero_point > 127 || !std::isfinite(s.inverse))
    refuse(RTA_BAD_FORMAT, "%s: numbers by which x is rounded that are none", s.name);
  at += r.bytes;
  return s;
}

}  // namespace

uint64_t Stored::room(const Parameter& p) const {
  constexpr uint64_t kWordBytes = 8;
  switch (p.kind) {
    case Kind::kRequests: return 2 * kWordBytes * static_cast<uint64_t>(request_words());
    case Kind::kReplies: return 2 * kWordBytes * static_cast<uint64_t>(outputs);
    case Kind::kControl: return kWordBytes * kControlWords;
    case Kind::kPast: return kWordBytes * static_cast<uint64_t>(states ? states : 1);
    case Kind::kMemory: return p.room;
    default: return 0;
  }
}

std::vector<Stored> stored_in(const Bytes& bytes, const uint8_t** section) {
  const Place all = section_of(bytes);
  Head head;
  if (all.size < sizeof head) refuse(RTA_BAD_FORMAT, "%zu bytes of persistent kernels", all.size);
  std::memcpy(&head, all.at, sizeof head);
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0)
    refuse(RTA_BAD_FORMAT, "persistent kernels that begin otherwise");
  if (head.version > kVersion)
    refuse(RTA_NEWER, "its persistent kernels have version %u, and this reads version %u", head.version, kVersion);
  if (head.version == 0 || head.bytes != all.size || !head.launches || head.launches > kMostLaunches)
    refuse(RTA_BAD_FORMAT, "%u persistent kernels in %llu bytes of %zu", head.launches,
           static_cast<unsigned long long>(head.bytes), all.size);
  std::vector<Stored> found;
  size_t at = sizeof head;
  for (uint32_t i = 0; i < head.launches; ++i) found.push_back(launch_of(all, at));
  *section = all.at;
  return found;
}

}  // namespace rta::gpu
