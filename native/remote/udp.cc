// The C ABI of frames in datagrams (rta_udp.h).
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "rta_udp.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int64_t kLook_ns = 100'000'000;  // between two looks whether it should end

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1'000'000'000) + t.tv_nsec;
}

bool nothing_there() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// Waits until something can be read, for so long at most.
void wait_readable(int socket, int64_t ns) {
  pollfd one{socket, POLLIN, 0};
#if defined(__linux__)
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  ppoll(&one, 1, &t, nullptr);
#else
  // poll counts in milliseconds: what is less than one is slept in steps.
  if (ns >= 1'000'000) {
    poll(&one, 1, static_cast<int>(std::min<int64_t>(ns / 1'000'000, 1000)));
  } else {
    const timespec t{0, static_cast<long>(std::min<int64_t>(ns, 20'000))};
    nanosleep(&t, nullptr);
  }
#endif
}

}  // namespace

struct rta_udp_server {
  rta_udp_server(rta_endpoint* e, int s, int64_t spin) : endpoint(e), socket(s), spin_ns(spin) {
    answer.resize(rta_endpoint_bytes(e, 1));
    thread = std::thread([this] { run(); });
  }

  void run() {
    std::vector<uint8_t> frame(RTA_UDP_MOST_BYTES + 1);
    int64_t spin_until = 0;
    while (!ending.load(std::memory_order_relaxed)) {
      sockaddr_storage peer;
      std::memset(&peer, 0, sizeof peer);
      socklen_t length = sizeof peer;
      const ssize_t size =
          recvfrom(socket, frame.data(), frame.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&peer), &length);
      if (size < 0) {
        if (spin_ns <= 0 || now_ns() >= spin_until)
          wait_readable(socket, kLook_ns);
        else
          sched_yield();  // the sender may have been put on this very core
        continue;         // nothing yet, or an answer that could not be delivered, which is lost
      }
      const size_t named = std::min<size_t>(length, RTA_ENDPOINT_PEER_BYTES);
      const int64_t bytes = rta_endpoint_answer(endpoint, frame.data(), static_cast<size_t>(size), &peer, named,
                                                answer.data(), answer.size());
      if (bytes > 0)
        sendto(socket, answer.data(), static_cast<size_t>(bytes), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&peer),
               length);
      if (spin_ns > 0) spin_until = now_ns() + spin_ns;
    }
  }

  rta_endpoint* endpoint;
  int socket;
  int64_t spin_ns;
  std::vector<uint8_t> answer;
  std::atomic<bool> ending{false};
  std::thread thread;
};

RTA_API rta_udp_server* rta_udp_serve(rta_endpoint* endpoint, int socket, int64_t spin_ns) {
  if (!endpoint) return nullptr;
  if (std::max(rta_endpoint_bytes(endpoint, 0), rta_endpoint_bytes(endpoint, 1)) > RTA_UDP_MOST_BYTES) return nullptr;
  try {
    return new rta_udp_server(endpoint, socket, spin_ns);
  } catch (const std::system_error&) {
    return nullptr;
  }
}

RTA_API void rta_udp_stop(rta_udp_server* server) {
  if (!server) return;
  server->ending = true;
  server->thread.join();
  delete server;
}

RTA_API int rta_udp_send(int socket, const void* frame, size_t size) {
  if (send(socket, frame, size, MSG_DONTWAIT) >= 0) return 0;
  return nothing_there() || errno == ECONNREFUSED || errno == ENOBUFS ? 1 : -1;
}

RTA_API int64_t rta_udp_receive(int socket, void* into, size_t capacity, int64_t timeout_ns, int64_t spin_ns) {
  int64_t begin = -1;
  for (;;) {
    const ssize_t size = recv(socket, into, capacity, MSG_DONTWAIT);
    if (size >= 0) return size;
    if (errno == ECONNREFUSED) return -1;
    if (!nothing_there()) return -2;
    if (timeout_ns <= 0) return -1;
    const int64_t now = now_ns();
    if (begin < 0) begin = now;
    const int64_t left = timeout_ns - (now - begin);
    if (left <= 0) return -1;
    if (now - begin >= spin_ns)
      wait_readable(socket, left);
    else
      sched_yield();  // who answers may have been put on this very core
  }
}
