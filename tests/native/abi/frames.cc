// Frames through their C ABI, under the sanitizers: written and read back, cut off, damaged, and forged with a right
// digest.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "native/harness.h"
#include "rta_frame.h"

namespace check {
namespace {

const uint8_t kKey[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

rta_frame_tensor tensor(const float* data, uint32_t rows, uint32_t width, uint8_t wire) {
  rta_frame_tensor t{const_cast<float*>(data), 0, {rows, width}, wire, 2};
  return t;
}

void check_round_trips(Report& report) {
  Random random(5);
  for (const uint8_t wire : {RTA_WIRE_FLOAT32, RTA_WIRE_Q8, RTA_WIRE_Q4})
    for (uint32_t rows = 1; rows < 4; ++rows)
      for (uint32_t width = 1; width < 40; ++width) {
        std::vector<float> x(rows * width);
        for (float& v : x) v = random.normal() * std::pow(10.0f, static_cast<float>(random.between(-30, 30)));
        if (width == 7) x[0] = std::numeric_limits<float>::quiet_NaN();
        Guarded from(x.size() * 4), to(x.size() * 4);
        const rta_frame_tensor sent = tensor(from.put(x.data(), x.size()), rows, width, wire);
        const size_t bytes = rta_frame_bytes(&sent, 1);
        Guarded memory(bytes);
        void* frame = memory.place(bytes);
        const rta_frame_head head{9, 3, -1, {}, 0, RTA_FRAME_REQUEST};
        report.expect(rta_frame_write(frame, bytes - 1, &head, &sent, 1, kKey) == RTA_FRAME_OVERSIZE, "too small");
        report.expect(rta_frame_write(frame, bytes, &head, &sent, 1, kKey) == static_cast<int64_t>(bytes), "written");
        rta_frame_head found{};
        rta_frame_tensor tensors[RTA_FRAME_TENSORS];
        int count = 0;
        report.expect(rta_frame_parse(frame, bytes, kKey, &found, tensors, &count) == RTA_FRAME_OK, "parsed");
        report.expect(count == 1 && found.session == 9 && found.sequence == 3 && found.stamp_ns == -1, "its head");
        float* y = static_cast<float*>(to.place(x.size() * 4));
        rta_frame_unpack(tensors, y);
        for (uint32_t r = 0; r < rows; ++r) {
          float low = INFINITY, high = -INFINITY;
          bool finite = true;
          for (uint32_t i = 0; i < width; ++i) {
            const float v = x[r * width + i];
            finite = finite && std::isfinite(v);
            low = std::fmin(low, v), high = std::fmax(high, v);
          }
          const double levels = wire == RTA_WIRE_Q8 ? 255 : 15;
          const double step = wire == RTA_WIRE_FLOAT32 ? 0 : (static_cast<double>(high) - low) / levels * 0.501;
          for (uint32_t i = 0; i < width; ++i) {
            const float a = x[r * width + i], b = y[r * width + i];
            const bool same = wire == RTA_WIRE_FLOAT32 && std::memcmp(&a, &b, 4) == 0;
            const bool near = std::fabs(static_cast<double>(a) - b) <= step + std::fabs(a) * 1e-6 + 1e-42;
            report.expect(same || (finite ? near : std::isnan(b)), "a number");
          }
        }
        report.expect(memory.intact() && to.intact(), "memory in front");
      }
}

// Any head and descriptors, under a right digest and a right size: parsed or refused, with no read outside.
void check_forged(Report& report) {
  Random random(6);
  int good = 0;
  for (int turn = 0; turn < 200000; ++turn) {
    // One tensor; every other time the size of the frame is what it takes.
    const rta_frame_tensor one{
        nullptr,
        0,
        {static_cast<uint32_t>(random.between(0, 4)), static_cast<uint32_t>(random.between(0, 9))},
        static_cast<uint8_t>(random.between(0, 5)),
        static_cast<uint8_t>(random.between(1, 3))};
    const size_t whole = rta_frame_bytes(&one, 1);
    const size_t bytes = whole && random.between(0, 1) ? whole : static_cast<size_t>(random.between(0, 60)) * 4;
    std::vector<uint8_t> frame(bytes);
    for (uint8_t& b : frame) b = static_cast<uint8_t>(random.between(0, 3) ? 0 : random.bits());
    if (bytes >= 64) {
      const uint32_t size = static_cast<uint32_t>(bytes);
      const uint8_t start[8] = {'R', 'T', 'A', 'F', 1, 0, 1, static_cast<uint8_t>(random.between(1, 2))};
      std::memcpy(frame.data(), start, 8);
      std::memcpy(frame.data() + 48, &size, 4);
      std::memset(frame.data() + 54, 0, 2);
      if (bytes >= 104) {
        const uint32_t length = static_cast<uint32_t>(random.between(0, 9) ? rta_frame_tensor_bytes(&one) : 8);
        if (random.between(0, 3)) frame[7] = 1;
        std::memset(frame.data() + 64, 0, 40);
        frame[64] = one.wire, frame[65] = one.rank;
        std::memcpy(frame.data() + 68, &length, 4);
        std::memcpy(frame.data() + 72, one.dims, sizeof one.dims);
      }
      std::vector<uint8_t> covered(frame.begin(), frame.begin() + 56);
      covered.insert(covered.end(), frame.begin() + 64, frame.end());
      const uint64_t digest = rta_siphash(covered.data(), covered.size(), kKey);
      std::memcpy(frame.data() + 56, &digest, 8);
    }
    Guarded memory(bytes + 1);
    const void* placed = memory.place(frame.data(), bytes);
    rta_frame_head head{};
    rta_frame_tensor tensors[RTA_FRAME_TENSORS];
    int count = 0;
    const int code = rta_frame_parse(placed, bytes, kKey, &head, tensors, &count);
    report.expect(bytes < 64 ? code == RTA_FRAME_TRUNCATED : code == RTA_FRAME_OK || code == RTA_FRAME_LAYOUT,
                  "a code");
    if (code != RTA_FRAME_OK) continue;
    ++good;
    for (int i = 0; i < count; ++i) {
      std::vector<uint8_t> out(4096);
      rta_frame_unpack(tensors + i, out.data());
    }
  }
  report.expect(good > 100, "some are right by chance");
}

// Each address in turn is none.
void check_none(Report& report) {
  float x[4] = {1, 2, 3, 4}, y[4] = {};
  rta_frame_tensor sent = tensor(x, 1, 4, RTA_WIRE_FLOAT32), found[RTA_FRAME_TENSORS];
  const rta_frame_head head{9, 3, -1, {}, 0, RTA_FRAME_REQUEST};
  rta_frame_head read{};
  rta_frame_guard guard{};
  int count = 0;
  report.expect(rta_frame_tensor_bytes(nullptr) == 0 && rta_frame_bytes(nullptr, 1) == 0, "bytes of no tensor");
  std::vector<uint8_t> frame(rta_frame_bytes(&sent, 1));
  void* const to = frame.data();
  const size_t size = frame.size();
  report.expect(rta_frame_write(to, size, nullptr, &sent, 1, kKey) == RTA_FRAME_LAYOUT, "a frame without a head");
  report.expect(rta_frame_write(to, size, &head, nullptr, 1, kKey) == RTA_FRAME_LAYOUT, "without tensors");
  report.expect(rta_frame_write(to, size, &head, &sent, 1, nullptr) == RTA_FRAME_LAYOUT, "without a key");
  for (const uint8_t b : frame) report.expect(b == 0, "something was written");
  report.expect(rta_frame_write(to, size, &head, &sent, 1, kKey) == static_cast<int64_t>(size), "a whole one");

  report.expect(rta_frame_parse(to, size, nullptr, &read, found, &count) == RTA_FRAME_LAYOUT, "parsed without a key");
  report.expect(rta_frame_parse(to, size, kKey, nullptr, found, &count) == RTA_FRAME_LAYOUT, "for no head");
  report.expect(rta_frame_parse(to, size, kKey, &read, nullptr, &count) == RTA_FRAME_LAYOUT, "for no tensors");
  report.expect(rta_frame_parse(to, size, kKey, &read, found, nullptr) == RTA_FRAME_LAYOUT, "for no count");
  report.expect(count == 0 && read.session == 0, "something was read");
  rta_frame_unpack(nullptr, y);

  rta_frame_tensor into = tensor(y, 1, 4, RTA_WIRE_FLOAT32);
  rta_frame_end end{&into, 1, {}, {}};
  std::memcpy(end.key, kKey, sizeof kKey);
  constexpr int kind = RTA_FRAME_REQUEST;
  report.expect(rta_frame_read(to, size, nullptr, kind, 0, &guard, &read) == RTA_FRAME_LAYOUT, "read by no end");
  report.expect(rta_frame_read(to, size, &end, kind, 0, nullptr, &read) == RTA_FRAME_LAYOUT, "by no guard");
  report.expect(rta_frame_read(to, size, &end, kind, 0, &guard, nullptr) == RTA_FRAME_LAYOUT, "for no head");
  report.expect(rta_frame_admit(nullptr, &head) == RTA_FRAME_LAYOUT, "admitted by no guard");
  report.expect(rta_frame_admit(&guard, nullptr) == RTA_FRAME_LAYOUT, "admitted without a head");
  report.expect(guard.session == 0 && y[0] == 0, "a guard that moved, or numbers that came");
  report.expect(rta_frame_read(to, size, &end, kind, 0, &guard, &read) == RTA_FRAME_OK && y[3] == 4, "a whole one");
  report.expect(rta_siphash(to, size, nullptr) == 0, "a digest without a key");
}

}  // namespace

void check_frames(Report& report) {
  check_none(report);
  check_round_trips(report);
  check_forged(report);
}

}  // namespace check
