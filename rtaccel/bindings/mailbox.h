// The host's side of a mailbox, as Python sees it: messages by address, a step bound to its tensors, and a thread that
// makes the step again and again.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/place.h"
#include "rta_mailbox.h"

namespace rta_torch {

inline bool is_set(const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_RELAXED) != 0; }

// Forks between the first process and this one.
uint32_t forks();

// A mailbox at fixed addresses. Slots are taken in turn by the number. With `commands`, a request ends with one word
// more: what is to be done before it is computed. Exchanges of several threads follow one another.
class Mailbox {
 public:
  // mapped: requests are memory of the card, whose stores a CPU may hold back. numbers: not 0 where x is rounded to
  // int8 on its way, so many numbers in request_words words. factors: one for each number of x, which it is multiplied
  // by before; or none.
  Mailbox(uint64_t requests, int64_t request_words, uint64_t replies, int64_t reply_words, bool commands, bool mapped,
          int64_t numbers, float inverse, int32_t zero_point, std::vector<float> factors)
      : requests_(reinterpret_cast<uint64_t*>(requests)),
        replies_(reinterpret_cast<uint64_t*>(replies)),
        request_words_(request_words),
        reply_words_(reply_words),
        commands_(commands),
        mapped_(mapped),
        numbers_(numbers),
        inverse_(inverse),
        zero_point_(zero_point),
        factors_(std::move(factors)),
        scaled_(factors_.size()) {
    if (!factors_.empty() && static_cast<int64_t>(factors_.size()) != x_numbers())
      throw std::invalid_argument("factors that are not one for each number of x");
  }

  // False after a timeout: the message then has the old number still, and the mailbox cannot be used again. Called with
  // the GIL, which is free while this waits for long.
  bool exchange(const void* request, void* reply, int64_t timeout_ns, uint32_t command);

  // The same by a thread that has no GIL. False too once *control is not 0: a kernel that ends answers no more.
  bool exchange_alone(const void* request, void* reply, int64_t timeout_ns, const uint64_t* control);

  // A message that nobody answers: zeros, and this command. Waits for an exchange that is under way. Called with the
  // GIL.
  void last(uint32_t command);

  // Plays the other side for `messages` of them, in the calling thread; how many were answered before a timeout.
  int64_t echo(int64_t messages, int64_t timeout_ns);

  // Of the latest message.
  uint32_t number() const { return sequence_; }

  // For a kernel that starts anew, in memory that is set to zero: the next message is the first.
  void restart();

  // What the next message orders beside its own command.
  uint32_t pending() const { return pending_; }
  void set_pending(uint32_t command) { pending_ = command; }

  // Bits that the next message orders beside those that are pending; and whether any of them was still pending, and is
  // taken back. From any thread.
  void order(uint32_t bits) { pending_ |= bits; }
  bool withdraw(uint32_t bits) { return (pending_.fetch_and(~bits) & bits) != 0; }

  // Numbers of x, 4 bytes each.
  int64_t x_numbers() const { return numbers_ ? numbers_ : request_words_; }
  int64_t reply_words() const { return reply_words_; }

  // Whether a MailboxLoop has it, and nobody else may use it.
  std::atomic<bool> looped{false};

 private:
  void refuse_looped() const;
  uint64_t* send(const void* request, uint32_t command);  // where its answer will be

  uint64_t *requests_, *replies_;
  int64_t request_words_, reply_words_;
  bool commands_, mapped_;
  int64_t numbers_;
  float inverse_;
  int32_t zero_point_;
  std::vector<float> factors_, scaled_;
  uint32_t sequence_ = 0, echoed_ = 0;
  std::atomic<uint32_t> pending_{0};
  std::mutex turn_;
};

// An exchange with its tensors, float32 x and y of the mailbox's words: they are kept alive, and a call checks only
// that their memory is what was bound. control: address of the control block, whose first word is not 0 once the kernel
// was asked to end. otherwise(what) is called instead of an exchange, or after one: it raises where what is "moved" or
// "no answer", and makes the call in its own way, or raises, where it is "ended", or "forked", and nothing was sent.
class MailboxStep {
 public:
  MailboxStep(nanobind::object mailbox, nanobind::object x, nanobind::object y, uint64_t control, int64_t timeout_ns,
              nanobind::object otherwise);

  void operator()() const;
  // As bindings/timer.h: the time without that of a call from Python.
  int64_t time(nanobind::handle out, int64_t start, int64_t stop, int64_t deadline) const;

  Mailbox& mailbox() const { return *box_; }
  bool in_place() const { return x_.same() && y_.same(); }
  // Whether this process was forked from the one that made it, whose memory the kernel has.
  bool forked() const { return born_ != forks(); }
  bool ended() const { return is_set(control_); }
  bool exchange_alone() const { return box_->exchange_alone(x_.data(), y_.data(), timeout_ns_, control_); }
  [[noreturn]] void refuse(const char* what) const;

 private:
  nanobind::object owner_, otherwise_;
  Mailbox* box_;
  Place x_, y_;
  const uint64_t* control_;
  int64_t timeout_ns_;
  uint32_t born_ = forks();
};

// What Python sees of both, and of the loop.
void add_mailbox(nanobind::module_& m);
void add_mailbox_loop(nanobind::module_& m);

}  // namespace rta_torch
