// The target: any bytes are refused with a text, or run. With clang it is a libFuzzer target; fuzz_main.cc drives it
// elsewhere.
#include "fuzz_model.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "model/sha256.h"
#include "rtaccel.h"

namespace fuzz {

Counts counts;

namespace {

constexpr size_t kDigestAt = 35, kHashedFrom = 99 + 13 + 136 + 1;  // as docs/reference/artifact.md has them
constexpr uint64_t kMostBytes = 64 << 20;                          // of inputs and outputs

struct Close {
  void operator()(rta_model* model) const { rta_model_close(model); }
};
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<void, Free>;

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "BROKEN: %s\n", what);
  std::abort();
}

size_t element_bytes(rta_dtype dtype) {
  if (dtype == RTA_BFLOAT16 || dtype == RTA_FLOAT16 || dtype == RTA_INT16) return 2;
  return dtype == RTA_FLOAT32 || dtype == RTA_INT32 ? 4 : dtype == RTA_INT64 ? 8 : 1;
}

void fill(void* to, rta_dtype dtype, uint64_t count, Random& random) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bits = random.bits();
    if (dtype == RTA_FLOAT32) {
      const float usual = static_cast<float>(static_cast<int>(bits >> 40) - (1 << 23)) / (1 << 22);
      const uint32_t any = static_cast<uint32_t>(bits);  // NaN, infinity and denormals among them
      std::memcpy(static_cast<char*>(to) + 4 * i, bits % 61 ? static_cast<const void*>(&usual) : &any, 4);
    } else {
      const int64_t number = bits % 31 ? static_cast<int64_t>(bits >> 8) % 5 - 1 : static_cast<int64_t>(bits);
      std::memcpy(static_cast<char*>(to) + element_bytes(dtype) * i, &number, element_bytes(dtype));
    }
  }
}

// Memory of just the bytes that the header says a caller has to have.
bool buffers(const rta_model* model, int outputs, int64_t samples, Random& random, std::vector<Buffer>& owned,
             std::vector<void*>& at) {
  uint64_t total = 0;
  for (int i = 0; i < rta_model_count(model, outputs); ++i) {
    rta_tensor tensor;
    if (rta_model_tensor(model, outputs, i, &tensor) != 0) broken("a tensor that is not there");
    const uint64_t size = element_bytes(tensor.dtype);
    const uint64_t count = static_cast<uint64_t>(tensor.sample_elements) * static_cast<uint64_t>(samples);
    if (count > kMostBytes || (total += count * size) > kMostBytes) return false;
    owned.emplace_back(std::malloc(count ? count * size : 1));
    at.push_back(owned.back().get());
    if (!outputs) fill(at.back(), tensor.dtype, count, random);
  }
  return true;
}

// Samples of the least batch that is not empty.
int64_t samples_of(const rta_model* model) {
  if (const int64_t streams = rta_model_streams(model)) return streams;
  int64_t least, most;
  rta_model_batch(model, &least, &most);
  rta_tensor first;
  rta_model_tensor(model, 0, 0, &first);
  int64_t samples = 1;
  for (int d = 0; d < first.lead; ++d) {
    const int64_t fixed = first.shape[d] > 1 ? first.shape[d] : 1, size = d ? fixed : least > 2 ? least : 2;
    if (size > 4096 / samples) return 0;
    samples *= size;
  }
  return samples;
}

void run(rta_model* model, Random& random) {
  const int64_t samples = samples_of(model);
  std::vector<Buffer> owned;
  std::vector<void*> in, out;
  if (samples < 1 || !buffers(model, 0, samples, random, owned, in) || !buffers(model, 1, samples, random, owned, out))
    return;
  for (int step = 0; step < 2; ++step)
    (rta_model_step(model, in.data(), out.data(), samples) == 0 ? counts.ran : counts.refused_inputs) += 1;
  const size_t bytes = rta_model_state_bytes(model);
  if (bytes < kMostBytes) {
    const Buffer kept(std::malloc(bytes));
    rta_model_save_state(model, kept.get());
    if (rta_model_load_state(model, kept.get()) != 0) broken("its own states are refused");
  }
  if (rta_model_reset(model, 0, rta_model_streams(model)) != 0) broken("it cannot be reset");
  rta_model_step(model, in.data(), out.data(), samples);
}

// Whether what a file holds for GPUs, if anything, is taken: it is refused with a text, or all of it can be looked at.
bool takes_persistent(const uint8_t* data, size_t size) {
  constexpr char kMagic[] = "RTASTAYS";
  if (size < sizeof kMagic || !memmem(data, size, kMagic, sizeof kMagic - 1)) return true;
  Bytes file(data, data + size);
  reseal(file);
  int capabilities[4];
  const int found = rta_gpu_stored(file.data(), file.size(), capabilities, 4);
  if (found < 0 && (rta_error_code() == RTA_OK || !*rta_error())) broken("refused without a code or a text");
  ++(found < 0 ? counts.refused_launches : counts.launches);
  return found >= 0;
}

}  // namespace

void reseal(Bytes& file) {
  if (file.size() < kHashedFrom) return;
  const rta::Digest digest = rta::sha256(file.data() + kHashedFrom, file.size() - kHashedFrom);
  constexpr char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < 32; ++i) {
    file[kDigestAt + 2 * i] = static_cast<uint8_t>(kDigits[digest.bytes[i] >> 4]);
    file[kDigestAt + 2 * i + 1] = static_cast<uint8_t>(kDigits[digest.bytes[i] & 15]);
  }
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ++fuzz::counts.files;
  // One in 16 with its digest computed, which takes longer than all the rest.
  const bool checked = size % 16 == 7;
  if (!fuzz::takes_persistent(data, size))
    return 0;           // a model on a CPU would be opened all the same, and changed again
  fuzz::Buffer placed;  // outlives the model
  std::unique_ptr<rta_model, fuzz::Close> model;
  if (size % 8 == 0 && size) {  // every file with packed weights
    placed.reset(std::aligned_alloc(64, (size + 63) / 64 * 64));
    std::memcpy(placed.get(), data, size);
    model.reset(rta_model_from_memory(placed.get(), size, RTA_UNCHECKED | RTA_IN_PLACE));
  } else if (checked) {
    fuzz::Bytes file(data, data + size);
    fuzz::reseal(file);
    model.reset(rta_model_from_memory(file.data(), file.size(), 0));
  } else {
    const int threads = size % 61 == 3 ? 2 : 1;
    model.reset(rta_model_from_memory_threaded(data, size, RTA_UNCHECKED, threads));
  }
  if (!model) {
    if (rta_error_code() == RTA_OK || !*rta_error()) fuzz::broken("refused without a code or a text");
    return 0;
  }
  ++fuzz::counts.opened;
  fuzz::Random random(size);
  fuzz::run(model.get(), random);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  fuzz::Random random(seed);
  fuzz::Bytes file(data, data + size);
  for (uint64_t left = 1 + random.below(4); left; --left) fuzz::mutate(file, random);
  const size_t made = file.size() < most ? file.size() : most;
  std::memcpy(data, file.data(), made);
  return made;
}
