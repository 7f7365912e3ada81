// A section is one image after another, each for one set of kernels. An image begins with a head, then a record for
// each stage of the plan: the name of its kernel, and where its packed weights are.
#include "prepacked.h"

#include <algorithm>
#include <cstring>

#ifndef RTA_SOURCES
#error "RTA_SOURCES: the sha256 of the sources that decide how weights are packed (CMakeLists.txt)"
#endif

namespace rta {
namespace {

constexpr char kMagic[8] = {'R', 'T', 'A', 'P', 'A', 'C', 'K', '\n'};
constexpr char kSources[] = RTA_SOURCES;  // 64 hexadecimal digits, of which the first 32 serve
static_assert(sizeof kSources > kSourcesBytes);

struct Head {
  char magic[8];
  uint32_t stages, reserved;
  uint64_t bytes;  // of the image, a multiple of 64
  char sources[kSourcesBytes];
  uint64_t padding;
};
static_assert(sizeof(Head) == 64);

struct Record {
  char kernel[kKernelName];  // ends in zeros
  uint64_t at, bytes;        // from the start of the image; multiples of 64
  uint64_t padding;
};
static_assert(sizeof(Record) == 64);

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Record record(const uint8_t* records, size_t index) { return read<Record>(records + index * sizeof(Record)); }

// An image at `at`, of which `room` bytes are left in the section.
Head checked_image(const uint8_t* at, uint64_t room, size_t stages) {
  if (room < sizeof(Head)) refuse(RTA_BAD_FORMAT, "the packed weights end within a head");
  const Head head = read<Head>(at);
  const uint64_t records = sizeof(Head) + stages * sizeof(Record);
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0 || head.reserved || head.padding || head.stages != stages ||
      head.bytes > room || head.bytes % 64 || head.bytes < records)
    refuse(RTA_BAD_FORMAT, "packed weights whose head does not fit the plan");
  uint64_t next = records;
  for (size_t i = 0; i < stages; ++i) {
    const Record r = record(at + sizeof(Head), i);
    if (r.kernel[kKernelName - 1] || r.padding || r.at != next || r.bytes % 64 || r.bytes > head.bytes - next)
      refuse(RTA_BAD_FORMAT, "packed weights of stage %zu do not lie where they should", i);
    next += r.bytes;
  }
  if (next != head.bytes) refuse(RTA_BAD_FORMAT, "packed weights with more than the plan has");
  return head;
}

bool same_kernels(const uint8_t* records, const std::vector<const char*>& kernels) {
  for (size_t i = 0; i < kernels.size(); ++i) {
    const Record r = record(records, i);
    if (r.bytes && std::strcmp(r.kernel, kernels[i]) != 0) return false;
  }
  return true;
}

// Without those of stages that read another stage's copy: they have none here, pack, and find that the copy is the
// same.
std::vector<PackedPart> once(const std::vector<PackedPart>& all) {
  std::vector<const char*> seen;
  std::vector<PackedPart> found;
  for (const PackedPart& part : all) {
    const bool has_bytes = part.bytes != 0;
    const auto place = std::lower_bound(seen.begin(), seen.end(), part.start);
    if (has_bytes && place != seen.end() && *place == part.start) continue;
    if (has_bytes) seen.insert(place, part.start);
    found.push_back(part);
  }
  return found;
}

}  // namespace

PrepackedSection::PrepackedSection(const Artifact& from, const std::vector<const char*>& kernels) {
  if (!from.prepacked) return;
  why_ = "the packed weights in it are for other kernels than this machine takes";
  uint64_t done = 0;
  do {  // an empty section is none either
    const uint8_t* at = from.prepacked + done;
    const Head head = checked_image(at, from.prepacked_bytes - done, kernels.size());
    done += head.bytes;
    if (images_) continue;
    if (std::memcmp(head.sources, kSources, kSourcesBytes) != 0) {
      why_ = "the packed weights in it are of another version's kernels";
    } else if (same_kernels(at + sizeof(Head), kernels)) {
      images_ = at;
      records_ = at + sizeof(Head);
    }
  } while (done < from.prepacked_bytes);
  if (images_) why_ = nullptr;
}

Prepacked PrepackedSection::stage(size_t index) const {
  if (!images_) return {nullptr, 0};
  const Record r = record(records_, index);
  if (!r.bytes) return {nullptr, 0};
  return {reinterpret_cast<const char*>(images_ + r.at), static_cast<size_t>(r.bytes)};
}

size_t write_prepacked(const std::vector<PackedPart>& all, const std::vector<const char*>& kernels, uint8_t* to) {
  const std::vector<PackedPart> parts = once(all);
  const size_t stages = kernels.size(), records = sizeof(Head) + stages * sizeof(Record);
  size_t bytes = records;
  for (const PackedPart& part : parts) bytes += part.bytes;
  if (parts.empty() || !to) return parts.empty() ? 0 : bytes;
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.stages = static_cast<uint32_t>(stages);
  head.bytes = bytes;
  std::memcpy(head.sources, kSources, kSourcesBytes);
  std::memcpy(to, &head, sizeof head);
  size_t next = records;
  auto part = parts.begin();
  for (size_t i = 0; i < stages; ++i) {
    Record r{};
    std::strncpy(r.kernel, kernels[i], kKernelName - 1);
    r.at = next;
    for (; part != parts.end() && part->stage == static_cast<int>(i); ++part) {
      std::memcpy(to + next, part->start, part->bytes);
      next += part->bytes;
      r.bytes += part->bytes;
    }
    std::memcpy(to + sizeof(Head) + i * sizeof r, &r, sizeof r);
  }
  return bytes;
}

}  // namespace rta
