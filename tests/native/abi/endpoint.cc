// rta_endpoint.h and rta_udp.h under the sanitizers: requests of several senders are answered, all else is refused with
// nothing changed, and over a socket, beside junk, each request comes back once.
#include "rta_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "native/harness.h"
#include "rta_udp.h"

namespace check {
namespace {

constexpr uint32_t kWidth = 5;
constexpr int64_t kSecond = 1'000'000'000;
const uint8_t kKey[16] = {9, 8, 7, 6, 5, 4, 3, 2, 1};
const uint8_t kModel[16] = {'m', 'o', 'd', 'e', 'l'};

rta_frame_end end_of(const rta_frame_tensor* tensor) {
  rta_frame_end end{tensor, 1, {}, {}};
  std::memcpy(end.model, kModel, 16);
  std::memcpy(end.key, kKey, 16);
  return end;
}

// Doubles its numbers; one above 1000 is none that it takes.
int doubled(void* calls, const void* const* in, void* const* out) {
  ++*static_cast<int*>(calls);
  const float* x = static_cast<const float*>(in[0]);
  float* y = static_cast<float*>(out[0]);
  for (uint32_t i = 0; i < kWidth; ++i) y[i] = 2 * x[i];
  return x[0] > 1000 ? -1 : 0;
}

// An endpoint with its memory, and a client's ends of the same frames.
struct World {
  float in[kWidth], out[kWidth], x[kWidth], y[kWidth];
  int calls = 0;
  rta_frame_tensor tensors[4];
  rta_endpoint* endpoint = nullptr;
  explicit World(int64_t peers) {
    float* const memory[] = {in, out, x, y};
    for (int i = 0; i < 4; ++i) {
      std::fill(memory[i], memory[i] + kWidth, NAN);
      tensors[i] = {memory[i], 0, {1, kWidth}, RTA_WIRE_FLOAT32, 2};
    }
    const rta_endpoint_config config{end_of(tensors), end_of(tensors + 1), doubled, &calls, peers};
    endpoint = rta_endpoint_create(&config);
  }
  World(const World&) = delete;
  ~World() { rta_endpoint_destroy(endpoint); }

  std::vector<uint8_t> request(float first, uint64_t session, uint64_t sequence, const uint8_t* model = kModel,
                               const uint8_t* key = kKey, uint8_t kind = RTA_FRAME_REQUEST, uint16_t status = 0) {
    for (uint32_t i = 0; i < kWidth; ++i) x[i] = first + static_cast<float>(i);
    std::vector<uint8_t> frame(rta_endpoint_bytes(endpoint, 0));
    rta_frame_head head{session, sequence, -5, {}, status, kind};
    std::memcpy(head.model, model, 16);
    rta_frame_write(frame.data(), frame.size(), &head, tensors + 2, 1, key);
    return frame;
  }
  int64_t answer(const std::vector<uint8_t>& frame, const char* peer, std::vector<uint8_t>& out_frame) {
    out_frame.resize(rta_endpoint_bytes(endpoint, 1));
    return rta_endpoint_answer(endpoint, frame.data(), frame.size(), peer, std::strlen(peer), out_frame.data(),
                               out_frame.size());
  }
  // Of the request with these numbers: 0, or why it is none.
  int read(const std::vector<uint8_t>& frame, uint64_t session, rta_frame_guard& guard, rta_frame_head& head) {
    const rta_frame_end end = end_of(tensors + 3);
    return rta_frame_read(frame.data(), frame.size(), &end, RTA_FRAME_ANSWER, session, &guard, &head);
  }
};

void check_refusals(Report& report) {
  World w(3);
  report.expect(w.endpoint != nullptr, "made");
  std::vector<uint8_t> out;
  rta_frame_guard guard{};
  rta_frame_head head{};
  report.expect(w.answer(w.request(1, 7, 1), "a", out) == static_cast<int64_t>(out.size()), "answered");
  report.expect(w.read(out, 7, guard, head) == RTA_FRAME_OK && head.stamp_ns == -5 && head.status == 0, "its head");
  for (uint32_t i = 0; i < kWidth; ++i) report.expect(w.y[i] == 2 + 2 * static_cast<float>(i), "its numbers");
  report.expect(w.read(out, 8, guard, head) == RTA_FRAME_SESSION, "an answer to another's request");

  const float before[] = {w.in[0], w.in[1]};
  const uint8_t other[16] = {1};
  auto truncated = w.request(2, 7, 9), longer = truncated, damaged = truncated;
  truncated.resize(truncated.size() - 1);
  longer.resize(longer.size() + 8);
  damaged.back() ^= 1;
  const struct {
    std::vector<uint8_t> frame;
    int code;
  } bad[] = {
      {{}, RTA_FRAME_TRUNCATED},
      {truncated, RTA_FRAME_TRUNCATED},
      {longer, RTA_FRAME_OVERSIZE},
      {damaged, RTA_FRAME_DIGEST},
      {std::vector<uint8_t>(longer.size() - 8, 'x'), RTA_FRAME_MAGIC},
      {w.request(2, 7, 9, other), RTA_FRAME_MODEL},
      {w.request(2, 7, 9, kModel, other), RTA_FRAME_DIGEST},
      {w.request(2, 7, 9, kModel, kKey, RTA_FRAME_ANSWER), RTA_FRAME_KIND},
      {w.request(2, 7, 9, kModel, kKey, RTA_FRAME_REQUEST, 1), RTA_FRAME_KIND},
      {w.request(2, 6, 9), RTA_FRAME_SESSION},
      {w.request(2, 7, 1), RTA_FRAME_REPLAYED},
      {w.request(2, 7, 0), RTA_FRAME_REORDERED},
  };
  int64_t refused = 0;
  for (const auto& one : bad) {
    report.expect(w.answer(one.frame, "a", out) == one.code, "code %d", one.code);
    ++refused;
  }
  report.expect(std::memcmp(before, w.in, sizeof before) == 0 && w.calls == 1, "nothing was read or run");
  report.expect(w.answer(w.request(3, 7, 2), "a", out) > 0, "the next one is taken all the same");

  report.expect(w.answer(w.request(2000, 7, 3), "a", out) > 0, "an answer that says no");
  report.expect(w.read(out, 7, guard, head) == RTA_FRAME_OK && head.status == RTA_ENDPOINT_REFUSED, "its status");
  for (const float v : w.out) report.expect(v == 0, "nobody else's numbers");

  for (const char* peer : {"b", "c", "d"}) report.expect(w.answer(w.request(1, 7, 1), peer, out) > 0, "%s", peer);
  report.expect(w.answer(w.request(1, 7, 1), "d", out) == RTA_FRAME_REPLAYED, "d is known");
  report.expect(w.answer(w.request(1, 7, 3), "a", out) > 0, "a was silent longest, and is forgotten");
  const std::string much(RTA_ENDPOINT_PEER_BYTES + 1, 'p');
  report.expect(w.answer(w.request(1, 7, 9), much.c_str(), out) == RTA_FRAME_OVERSIZE, "a name too long");
  rta_endpoint_stats s{};
  rta_endpoint_statistics(w.endpoint, &s);
  int64_t counted = 0;
  for (const int64_t n : s.refused) counted += n;
  report.expect(s.answered == 6 && s.failed == 1 && s.peers == 3 && counted == refused + 1, "counts");
  report.expect(s.refused[-RTA_FRAME_DIGEST] == 2 && s.refused[-RTA_FRAME_REPLAYED] == 2, "by reason");

  rta_frame_tensor none{w.in, 0, {0, 3}, RTA_WIRE_FLOAT32, 2};
  const rta_endpoint_config empty{end_of(&none), end_of(w.tensors), doubled, &w.calls, 3};
  const rta_endpoint_config silent{end_of(w.tensors), end_of(w.tensors + 1), nullptr, nullptr, 3};
  const rta_endpoint_config lonely{end_of(w.tensors), end_of(w.tensors + 1), doubled, &w.calls, 0};
  for (const auto& config : {empty, silent, lonely}) report.expect(!rta_endpoint_create(&config), "refused");
}

// An endpoint that was not made, and no server.
void check_none(Report& report) {
  report.expect(!rta_endpoint_create(nullptr), "an endpoint without a config");
  report.expect(rta_endpoint_bytes(nullptr, 0) == 0 && rta_endpoint_bytes(nullptr, 1) == 0, "bytes");
  uint8_t out[8] = {7};
  report.expect(rta_endpoint_answer(nullptr, out, sizeof out, "a", 1, out, sizeof out) == RTA_FRAME_MODEL, "a frame");
  report.expect(out[0] == 7, "an answer");
  rta_endpoint_stats s;
  std::memset(&s, 0x7f, sizeof s);
  rta_endpoint_statistics(nullptr, &s);
  const char* const bytes = reinterpret_cast<const char*>(&s);
  report.expect(std::count(bytes, bytes + sizeof s, 0) == static_cast<int64_t>(sizeof s), "counts");
  report.expect(!rta_udp_serve(nullptr, -1, 0), "a server of nothing");
  report.expect(rta_udp_send(-1, nullptr, 0) == -1 && rta_udp_receive(-1, nullptr, 0, 0, 0) == -2, "no socket");
  rta_udp_stop(nullptr);
  rta_endpoint_destroy(nullptr);
}

int bound_socket(sockaddr_in& place) {
  const int s = socket(AF_INET, SOCK_DGRAM, 0);
  place = {};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof place;
  if (s >= 0 && bind(s, reinterpret_cast<sockaddr*>(&place), length) == 0 &&
      getsockname(s, reinterpret_cast<sockaddr*>(&place), &length) == 0)
    return s;
  if (s >= 0) close(s);
  return -1;
}

// Several clients at once; every third of their datagrams is junk.
void check_sockets(Report& report, int64_t spin_ns) {
  World w(8);
  sockaddr_in place;
  const int bound = bound_socket(place);
  if (bound < 0) return report.expect(false, "no socket");
  rta_udp_server* const server = rta_udp_serve(w.endpoint, bound, spin_ns);
  report.expect(server != nullptr, "a server");
  std::vector<std::thread> clients;
  std::atomic<int> wrong{0}, answered{0};
  for (int c = 0; c < 3; ++c)
    clients.emplace_back([&, c] {
      World mine(1);  // for its ends alone
      const int s = socket(AF_INET, SOCK_DGRAM, 0);
      if (connect(s, reinterpret_cast<const sockaddr*>(&place), sizeof place) != 0) ++wrong;
      rta_frame_guard guard{};
      std::vector<uint8_t> into(RTA_UDP_MOST_BYTES + 1);
      for (uint64_t n = 1; n <= 200; ++n) {
        const auto frame = mine.request(static_cast<float>(n), 5, n);
        if (n % 3 == 0 && rta_udp_send(s, frame.data(), frame.size() - n % 50 - 1) < 0) ++wrong;
        if (rta_udp_send(s, frame.data(), frame.size()) != 0) ++wrong;
        const int64_t size = rta_udp_receive(s, into.data(), into.size(), 60 * kSecond, c == 0 ? spin_ns : 0);
        rta_frame_head head{};
        const std::vector<uint8_t> back(into.begin(), into.begin() + std::max<int64_t>(size, 0));
        if (mine.read(back, 5, guard, head) != RTA_FRAME_OK || head.sequence != n) ++wrong;
        if (mine.y[0] != 2 * static_cast<float>(n)) ++wrong;
        ++answered;
      }
      if (rta_udp_receive(s, into.data(), into.size(), 1'000'000, 0) != -1) ++wrong;  // nothing is left
      close(s);
    });
  for (auto& one : clients) one.join();
  rta_udp_stop(server);
  close(bound);
  rta_endpoint_stats s{};
  rta_endpoint_statistics(w.endpoint, &s);
  report.expect(wrong == 0 && answered == 600 && s.answered == 600 && s.peers == 3, "%d wrong of %d",
                static_cast<int>(wrong), static_cast<int>(answered));
  report.expect(s.refused[-RTA_FRAME_TRUNCATED] == 3 * 66, "junk is counted");
  uint8_t byte = 0;
  report.expect(rta_udp_send(bound, &byte, 1) == -1 && rta_udp_receive(bound, &byte, 1, 0, 0) == -2, "a closed one");
}

}  // namespace

void check_endpoint(Report& report) {
  check_none(report);
  check_refusals(report);
  check_sockets(report, 0);
  check_sockets(report, 20'000);
}

}  // namespace check
