// The C ABI of streaming features (rta_online.h): programs are checked, blocks stepped, results put in their places.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "online/bank.h"
#include "rta_online.h"

using namespace rta::online;

namespace {

constexpr int32_t kCount = -1, kLogCount = -2;
constexpr int64_t kMaxFloats = int64_t{1} << 32;

struct Output {
  int32_t node;
  float scale;
  int64_t at;  // of its first feature in a row
};

}  // namespace

struct rta_bank {
  int64_t streams, channels, width, blocks, slots;
  std::vector<BankNode> nodes;
  std::vector<Output> outputs;
  std::vector<float> floats;       // of each block: slots, then what is held of each node
  std::vector<uint32_t> integers;  // of each block: samples, steps
  const BankKernel* kernel;

  int64_t cells() const { return streams * channels; }
  int64_t block_floats() const { return (slots + static_cast<int64_t>(nodes.size())) * kCells; }
  BankBlock block(int64_t i) {
    float* base = floats.data() + i * block_floats();
    uint32_t* whole = integers.data() + i * 2 * kCells;
    return {reinterpret_cast<int32_t*>(whole), whole + kCells, base, base + slots * kCells};
  }
  void clear(int64_t cell) {
    const int64_t lane = cell % kCells;
    const BankBlock b = block(cell / kCells);
    b.samples[lane] = 0;
    b.steps[lane] = 0;
    for (int64_t s = 0; s < slots; ++s) b.slots[s * kCells + lane] = 0.0f;
    for (size_t k = 0; k < nodes.size(); ++k)
      b.held[static_cast<int64_t>(k) * kCells + lane] = std::numeric_limits<float>::quiet_NaN();
  }
};

namespace {

bool valid(const rta_bank_node& node, int index) {
  const auto kind = static_cast<BankKind>(node.kind);
  const bool rate = node.rate > 0.0f && node.rate <= 1.0f;
  const bool length = node.length >= 1 && node.length <= RTA_BANK_MAX_LENGTH;
  if (node.kind < RTA_BANK_VALUE || node.kind > RTA_BANK_MINUS) return false;
  if (kind != BankKind::kValue && (node.of < 0 || node.of >= index)) return false;
  if (kind == BankKind::kMinus && (node.other < 0 || node.other >= index)) return false;
  if (kind == BankKind::kEwma) return rate;
  if (kind == BankKind::kSlope) return rate && node.rate < 1.0f;
  if (kind == BankKind::kFirst || kind == BankKind::kLag) return length;
  if (kind == BankKind::kSeason) return rate && length;
  return true;
}

// The results of one block into the rows of y. Its cells are `first` to `first + count`.
void put(const rta_bank& bank, const BankBlock& block, int64_t first, int64_t count, float* y) {
  for (const Output& output : bank.outputs) {
    if (output.node < 0) continue;
    const float* from = block.held + output.node * kCells;
    int64_t lane = 0, stream = first / bank.channels, channel = first % bank.channels;
    while (lane < count) {  // channels of one stream lie side by side
      const int64_t n = std::min(count - lane, bank.channels - channel);
      std::memcpy(y + stream * bank.width + output.at + channel, from + lane, static_cast<size_t>(n) * sizeof(float));
      lane += n;
      channel = 0;
      ++stream;
    }
  }
}

}  // namespace

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_bank* rta_bank_create(int64_t streams, int64_t channels, const rta_bank_node* nodes, int node_count,
                                  const rta_bank_output* outputs, int output_count) {
  if (streams < 1 || channels < 1 || streams > kMaxFloats / channels || node_count < 0 || node_count > kMaxNodes ||
      output_count < 1 || (node_count && !nodes) || !outputs)
    return nullptr;
  try {
    auto bank = std::make_unique<rta_bank>();
    bank->streams = streams;
    bank->channels = channels;
    for (int i = 0; i < node_count; ++i) {
      if (!valid(nodes[i], i)) return nullptr;
      const auto kind = static_cast<BankKind>(nodes[i].kind);
      const bool two = kind == BankKind::kMinus;
      bank->nodes.push_back({kind, kind == BankKind::kValue ? 0 : nodes[i].of, two ? nodes[i].other : 0, nodes[i].rate,
                             nodes[i].length, static_cast<int32_t>(bank->slots)});
      bank->slots += bank_slots(kind, nodes[i].length);
    }
    for (int i = 0; i < output_count; ++i) {
      const int32_t node = outputs[i].node;
      if (node < kLogCount || node >= node_count || !std::isfinite(outputs[i].scale)) return nullptr;
      bank->outputs.push_back({node, outputs[i].scale, bank->width});
      bank->width += node < 0 ? 1 : channels;
    }
    bank->blocks = (bank->cells() + kCells - 1) / kCells;
    if (bank->block_floats() > kMaxFloats / bank->blocks) return nullptr;
    bank->floats.resize(static_cast<size_t>(bank->blocks * bank->block_floats()));
    bank->integers.resize(static_cast<size_t>(bank->blocks * 2 * kCells));
    for (int64_t cell = 0; cell < bank->blocks * kCells; ++cell) bank->clear(cell);
    bank->kernel = &best_bank_kernel();
    return bank.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

RTA_API void rta_bank_destroy(rta_bank* bank) { delete bank; }
RTA_API int64_t rta_bank_width(const rta_bank* bank) { return bank ? bank->width : 0; }

RTA_API void rta_bank_step(rta_bank* bank, const float* x, float* y) {
  if (!bank) return;
  const int64_t cells = bank->cells();
  const int count = static_cast<int>(bank->nodes.size());
  for (int64_t i = 0; i < bank->blocks; ++i) {
    const int64_t first = i * kCells, n = std::min<int64_t>(kCells, cells - first);
    const BankBlock block = bank->block(i);
    alignas(64) float padded[kCells];
    const float* from = x + first;
    if (n < kCells) {
      for (int64_t l = 0; l < kCells; ++l) padded[l] = l < n ? from[l] : std::numeric_limits<float>::quiet_NaN();
      from = padded;
    }
    bank->kernel->step(bank->nodes.data(), count, block, from);
    put(*bank, block, first, n, y);
  }
  for (const Output& output : bank->outputs) {
    if (output.node >= 0) continue;
    for (int64_t s = 0; s < bank->streams; ++s) {
      const int64_t cell = s * bank->channels;
      const double steps = bank->integers[static_cast<size_t>(cell / kCells * 2 * kCells + kCells + cell % kCells)];
      const double value = output.node == kCount ? steps : std::log1p(steps);
      y[s * bank->width + output.at] = static_cast<float>(value * static_cast<double>(output.scale));
    }
  }
}

RTA_API void rta_bank_reset(rta_bank* bank, int64_t first, int64_t count) {
  if (!bank) return;
  for (int64_t cell = first * bank->channels; cell < (first + count) * bank->channels; ++cell) bank->clear(cell);
}

RTA_API void rta_bank_state_size(const rta_bank* bank, int64_t* floats, int64_t* integers) {
  *floats = bank ? static_cast<int64_t>(bank->floats.size()) : 0;
  *integers = bank ? static_cast<int64_t>(bank->integers.size()) : 0;
}

RTA_API void rta_bank_save(const rta_bank* bank, float* floats, uint32_t* integers) {
  if (!bank) return;
  std::memcpy(floats, bank->floats.data(), bank->floats.size() * sizeof(float));
  std::memcpy(integers, bank->integers.data(), bank->integers.size() * sizeof(uint32_t));
}

RTA_API void rta_bank_load(rta_bank* bank, const float* floats, const uint32_t* integers) {
  if (!bank) return;
  std::memcpy(bank->floats.data(), floats, bank->floats.size() * sizeof(float));
  std::memcpy(bank->integers.data(), integers, bank->integers.size() * sizeof(uint32_t));
}
}
