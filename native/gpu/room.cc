#include "room.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace rta::gpu {
namespace {

constexpr int kDefaultQueues = 8;

// Never destroyed: a process that ends leaves what is on a card to the driver.
std::vector<Seat*>& seats() {
  static auto* all = new std::vector<Seat*>;
  return *all;
}
std::vector<std::unique_ptr<Resident>>& parked() {
  static auto* all = new std::vector<std::unique_ptr<Resident>>;
  return *all;
}

// Hardware queues that the streams of a process share; a kernel waits for what is before it in its queue.
int queues() {
  const char* text = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
  const int number = text ? std::atoi(text) : 0;
  return number > 0 ? number : kDefaultQueues;
}

}  // namespace

std::mutex& turn() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

unsigned taken(const Card& card) {
  unsigned all = 0;
  for (const Seat* seat : seats())
    if (seat->device_ == card.device) all += seat->blocks_;
  return all;
}

bool any_runs() {
  return std::any_of(seats().begin(), seats().end(), [](const Seat* seat) { return seat->running(); });
}

// A process with a kernel that goes on would not end.
void end_all() {
  for (const Seat* seat : seats())
    if (seat->running()) __atomic_store_n(seat->abort_, kAbort, __ATOMIC_RELEASE);
}

void Seat::runs(uint64_t* abort) {
  static const int registered = std::atexit(end_all);
  static_cast<void>(registered);
  abort_ = abort;
  running_ = true;
}

Seat::Seat(const Card& card, unsigned blocks, const char* name) : device_(card.device), blocks_(blocks) {
  const unsigned used = taken(card), all = static_cast<unsigned>(card.multiprocessors);
  if (used + blocks > all)
    refuse(RTA_NO_ROOM, "%s wants %u multiprocessors of %u, of which persistent kernels have %u", name, blocks, all,
           used);
  const auto others =
      std::count_if(seats().begin(), seats().end(), [&](const Seat* s) { return s->device_ == device_; });
  if (others + 2 > queues())  // one more, and one queue for everything else
    refuse(RTA_NO_ROOM, "%s beside %d persistent kernels, with %d hardware queues: set CUDA_DEVICE_MAX_CONNECTIONS=32",
           name, static_cast<int>(others), queues());
  seats().push_back(this);
}

Seat::~Seat() { std::erase(seats(), this); }

void give_back(std::unique_ptr<Resident> resident) {
  parked().push_back(std::move(resident));
  if (!any_runs()) parked().clear();
}

void leave_alone(std::unique_ptr<Resident> resident, std::unique_ptr<Seat> seat) {
  static_cast<void>(resident.release());
  static_cast<void>(seat.release());  // it counts as running: nothing that waits for the device is begun any more
}

}  // namespace rta::gpu
