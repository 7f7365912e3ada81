// Packed weights in a file, so that a reader with the same kernels need not pack: docs/reference/artifact.md has the
// section's grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "_core/stage.h"
#include "artifact.h"

namespace rta {

constexpr size_t kKernelName = 40;
constexpr size_t kSourcesBytes = 32;

// The image of a file that fits the kernels that were chosen; `why` where there is none, and nullptr without a section.
class PrepackedSection {
 public:
  // Looks at all of the section before anything of it is used: RTA_BAD_FORMAT.
  PrepackedSection(const Artifact& from, const std::vector<const char*>& kernels);
  Prepacked stage(size_t index) const;  // at is nullptr where the stage packs its weights
  const char* why() const { return why_; }

 private:
  const uint8_t* images_ = nullptr;  // of the one that fits
  const uint8_t* records_ = nullptr;
  const char* why_ = nullptr;
};

// What such a section holds for a plan that packed its weights here. to: NULL, or room for as many bytes as it returns;
// 0 where no stage has such weights.
size_t write_prepacked(const std::vector<PackedPart>& parts, const std::vector<const char*>& kernels, uint8_t* to);

}  // namespace rta
