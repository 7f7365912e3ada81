// Fuzzing of frames: those that begin as whole ones and were changed, parsed, and given to an endpoint. What is refused
// must change nothing, what is taken must not be taken twice, and an answer must be a frame.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "native/fuzz_model.h"
#include "rta_endpoint.h"

namespace fuzz {
namespace {

constexpr size_t kHead = RTA_FRAME_HEAD_BYTES, kDigestAt = 56, kDescriptor = 40;
constexpr uint8_t kNoKey[16] = {};

void must(bool held, const char* what) {
  if (held) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::abort();
}

struct Seen {
  int calls = 0;
};

int step(void* self, const void* const* in, void* const* out) {
  ++static_cast<Seen*>(self)->calls;
  const float x = *static_cast<const float*>(in[0]);
  for (int i = 0; i < 4; ++i) static_cast<float*>(out[0])[i] = x;
  return x > 100 ? -1 : 0;
}

// An endpoint for just such frames as this one is: whatever its tensors are is what is expected.
void ask(const uint8_t* data, size_t size, const rta_frame_head& head, const rta_frame_tensor* tensors, int count) {
  std::vector<std::vector<uint8_t>> memory;
  rta_frame_tensor expected[RTA_FRAME_TENSORS];
  for (int i = 0; i < count; ++i) {
    expected[i] = tensors[i];
    size_t numbers = 1;
    for (int k = 0; k < tensors[i].rank; ++k) numbers *= tensors[i].dims[k];
    memory.emplace_back(std::max<size_t>(numbers * 8, 8), 0xa5);
    expected[i].data = memory.back().data();
  }
  float y[4];
  Seen seen;
  const rta_frame_tensor back{y, 0, {1, 4}, RTA_WIRE_FLOAT32, 2};
  rta_endpoint_config config{{expected, count, {}, {}}, {&back, 1, {}, {}}, step, &seen, 2};
  std::memcpy(config.in.model, head.model, 16);
  std::memcpy(config.out.model, head.model, 16);
  rta_endpoint* const endpoint = rta_endpoint_create(&config);
  must(endpoint != nullptr, "tensors that were parsed can be expected");
  std::vector<uint8_t> answer(rta_endpoint_bytes(endpoint, 1));
  const auto asked = [&](const char* peer) {
    return rta_endpoint_answer(endpoint, data, size, peer, 1, answer.data(), answer.size());
  };
  const int64_t first = asked("a");
  const bool request = head.kind == RTA_FRAME_REQUEST && head.status == 0;
  const bool fresh = head.session > 0 || head.sequence > 0;
  must((first > 0) == (request && fresh), "a whole request is answered");
  if (first > 0) {
    rta_frame_head back_head{};
    rta_frame_tensor found[RTA_FRAME_TENSORS];
    int n = 0;
    must(rta_frame_parse(answer.data(), static_cast<size_t>(first), kNoKey, &back_head, found, &n) == RTA_FRAME_OK,
         "an answer is a frame");
    must(back_head.kind == RTA_FRAME_ANSWER && back_head.session == head.session &&
             back_head.sequence == head.sequence && back_head.stamp_ns == head.stamp_ns,
         "of the request that it answers");
    must(asked("a") == RTA_FRAME_REPLAYED && seen.calls == 1, "nothing is taken twice");
    must(asked("b") > 0 && asked("c") > 0 && asked("a") > 0, "senders have guards of their own, of two at most");
  } else {
    must(seen.calls == 0, "what is refused is not run");
    for (const auto& bytes : memory)
      must(std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0xa5; }), "and read nowhere");
  }
  rta_endpoint_destroy(endpoint);
}

}  // namespace

Counts counts;

void reseal(Bytes& frame) {
  if (frame.size() < kHead) return;
  const uint32_t size = static_cast<uint32_t>(frame.size());
  std::memcpy(frame.data() + 48, &size, 4);
  std::vector<uint8_t> covered(frame.begin(), frame.begin() + kDigestAt);
  covered.insert(covered.end(), frame.begin() + kHead, frame.end());
  const uint64_t digest = rta_siphash(covered.data(), covered.size(), kNoKey);
  std::memcpy(frame.data() + kDigestAt, &digest, 8);
}

void mutate(Bytes& frame, Random& random) {
  constexpr uint32_t kNumbers[] = {0, 1, 2, 3, 4, 7, 8, 9, 255, 256, 65535, 65536, 1u << 30, 1u << 31, UINT32_MAX};
  const auto number = [&] {
    return random.one_in(3) ? static_cast<uint32_t>(random.bits()) : kNumbers[random.below(std::size(kNumbers))];
  };
  const uint64_t what = random.below(6);
  if (what == 0 && !frame.empty()) {
    frame[random.below(frame.size())] = static_cast<uint8_t>(random.bits());
  } else if (what == 1) {
    frame.resize(random.below(frame.size() + 48));
  } else if (what == 2 && frame.size() >= kHead) {  // a field of the head, in place
    const uint32_t n = number();
    std::memcpy(frame.data() + 4 * random.below(kHead / 4), &n, 4);
  } else if (frame.size() >= kHead + kDescriptor) {  // of a descriptor
    const size_t tensors = std::max<size_t>(1, std::min<size_t>(frame[7], (frame.size() - kHead) / kDescriptor));
    uint8_t* const at = frame.data() + kHead + kDescriptor * random.below(tensors);
    const uint32_t n = number();
    if (what == 3) at[random.below(2)] = static_cast<uint8_t>(random.below(9));
    if (what > 3) std::memcpy(at + 4 * random.below(kDescriptor / 4), &n, 4);
  }
  if (!random.one_in(4)) reseal(frame);
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fuzz;
  ++counts.files;
  rta_frame_head head{};
  rta_frame_tensor tensors[RTA_FRAME_TENSORS];
  int count = -1;
  if (rta_frame_parse(data, size, kNoKey, &head, tensors, &count) != RTA_FRAME_OK) {
    must(count == -1, "a refused frame writes nothing");
    return 0;
  }
  ++counts.opened;
  size_t bytes = 0;
  for (int i = 0; i < count; ++i) {
    const uint8_t* const at = static_cast<const uint8_t*>(tensors[i].data);
    must(at >= data + kHead && at + tensors[i].bytes <= data + size, "tensors lie in the frame");
    bytes += tensors[i].bytes;
  }
  must(bytes <= size, "and beside each other");
  ask(data, size, head, tensors, count);
  ++counts.ran;
  return 0;
}
