// What persistent kernels have of this process's devices, and what must not be done beside them: loading code and
// freeing memory wait for the whole device, and so for a kernel that does not end.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "device.h"

namespace rta::gpu {

// Held while code is loaded, a kernel is started, or memory is given back: none of them begins beside another.
std::mutex& turn();

// The part of a device that one kernel has, from when its code is loaded until it has ended.
class Seat {
 public:
  // Refuses with RTA_NO_ROOM where too few multiprocessors or queues are left.
  Seat(const Card& card, unsigned blocks, const char* name);
  ~Seat();
  Seat(const Seat&) = delete;
  // While it runs: its word for the end, which is set where the process ends.
  void runs(uint64_t* abort);
  void has_ended() { running_ = false; }
  bool running() const { return running_; }

 private:
  friend unsigned taken(const Card& card);
  friend bool any_runs();
  friend void end_all();
  Device device_;
  unsigned blocks_;
  std::atomic<bool> running_{false};
  uint64_t* abort_ = nullptr;
};

unsigned taken(const Card& card);  // multiprocessors
bool any_runs();

// Gives it back now, or when no kernel runs any more.
void give_back(std::unique_ptr<Resident> resident);
// Of a kernel that did not end: its memory stays its own until the process ends.
void leave_alone(std::unique_ptr<Resident> resident, std::unique_ptr<Seat> seat);

}  // namespace rta::gpu
