// A device and what one kernel has of it: code, memory, a stream.
#pragma once

#include <vector>

#include "driver.h"
#include "section.h"

namespace rta::gpu {

constexpr uint64_t kAbort = 1;  // the first of the control words, as kernels/_persistent/cuda_poll.h has them

struct Card {
  Device device;
  int capability, multiprocessors, shared_bytes;
  bool cooperative;
};

// The device of this number. Refuses with RTA_NO_DEVICE where there is none, or where no kernel may stay on it.
Card card_of(int number);

// Whether code for one capability, times ten, runs on a card of another.
bool fits(int code, int card);

// Makes a device's own context current in this thread, and puts back what was current.
class Current {
 public:
  explicit Current(Context context);
  ~Current();
  Current(const Current&) = delete;
};

// A kernel that is loaded, with its memory. Refuses what the driver does not take; nothing of it is left then.
class Resident {
 public:
  Resident(const Card& card, const Stored& stored, const uint8_t* section);
  ~Resident();  // gives everything back, which may wait for the device
  Resident(const Resident&) = delete;

  void launch(bool second);  // with this set of weights, and the rest as it was at first; does not wait
  // Puts other weights into one of the sets, beside a kernel that computes with the other one.
  void write(bool second, const Stored& from, const uint8_t* section);
  bool finished() const;  // refuses where it ended by a fault
  // How many of its clusters the device has room for, with nothing else on it; 1 where it is none.
  int clusters() const;

  uint64_t *requests = nullptr, *replies = nullptr, *control = nullptr, *past = nullptr;

 private:
  struct Memory {  // of the card, that a start finds zeroed
    Address at;
    size_t bytes;
  };
  struct Weights {  // two sets of them, and as many bytes of the host to copy from
    Address at;
    size_t bytes;
    void* staging;
  };
  void load(const Stored& stored);
  void check_parameters() const;
  uint64_t shared_memory(Kind kind, size_t bytes);
  uint64_t own_memory(const Parameter& p, const uint8_t* section);
  void* pinned(size_t bytes);
  void give_back();

  Card card_;
  Stored stored_;
  Context context_ = nullptr;
  Module module_ = nullptr;
  Function function_ = nullptr;
  Stream stream_ = nullptr;
  std::vector<Address> owned_;
  std::vector<void*> pinned_;
  std::vector<std::pair<void*, size_t>> mailbox_;  // and states: zeroed by the host
  std::vector<Memory> zeroed_;
  std::vector<Weights> weights_;
  Stream copying_ = nullptr;
  void* zeros_ = nullptr;
  std::vector<uint64_t> values_;  // of the parameters
};

}  // namespace rta::gpu
