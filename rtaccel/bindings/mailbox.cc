#include "bindings/mailbox.h"

#include <pthread.h>

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <vector>

#include "bindings/timer.h"
#include "realtime/columns.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

std::atomic<uint32_t> forked{0};
[[maybe_unused]] const int watch = pthread_atfork(nullptr, nullptr, [] { forked.fetch_add(1); });

// A thousand spins before the GIL is given away, some 10 us, in which a kernel answers as a rule: to get it back from
// a thread that computes takes up to 5 ms.
constexpr int64_t kHeldNs = 1;

// After which a thread of its own looks whether the kernel was ended.
constexpr int64_t kSliceNs = 1'000'000;

// Of a message whose x held a NaN or an infinity, which int8 numbers do not show: kNonfinite of cuda_poll.h.
constexpr uint32_t kNonfinite = 8;

// Of stores that this CPU holds back, as it does those into the memory of a device.
void let_go() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#elif defined(__aarch64__)
  asm volatile("dsb st" ::: "memory");
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

}  // namespace

uint32_t forks() { return forked.load(std::memory_order_relaxed); }

uint64_t* Mailbox::send(const void* request, uint32_t command) {
  const uint32_t number = ++sequence_, pending = pending_.exchange(0);
  uint64_t* slot = requests_ + (number & 1) * (request_words_ + commands_);
  uint32_t unfit = 0;
  if (!factors_.empty()) {
    rta::scale_columns(static_cast<const float*>(request), factors_.data(), x_numbers(), scaled_.data());
    request = scaled_.data();
  }
  if (numbers_) {
    const float* x = static_cast<const float*>(request);
    unfit = rta_mailbox_send_int8(slot, x, numbers_, inverse_, zero_point_, number) ? 0 : kNonfinite;
  }
  if (commands_) rta_mailbox_put(slot + request_words_, command | pending | unfit, number);
  if (!numbers_) rta_mailbox_send(slot, static_cast<const uint32_t*>(request), request_words_, number);
  if (mapped_) let_go();
  return replies_ + (number & 1) * reply_words_;
}

void Mailbox::refuse_looped() const {
  if (looped) throw std::runtime_error("a MailboxLoop has this mailbox: stop() it first");
}

void Mailbox::restart() {
  refuse_looped();
  sequence_ = echoed_ = 0;
}

bool Mailbox::exchange(const void* request, void* reply, int64_t timeout_ns, uint32_t command) {
  refuse_looped();
  std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
  if (!turn) {
    nb::gil_scoped_release release;
    turn.lock();
  }
  uint32_t* to = static_cast<uint32_t*>(reply);
  const uint64_t* from = send(request, command);
  const uint32_t number = sequence_;
  if (rta_mailbox_wait(from, to, reply_words_, number, kHeldNs) == RTA_MAILBOX_DONE) return true;
  nb::gil_scoped_release release;
  return rta_mailbox_wait(from, to, reply_words_, number, timeout_ns) == RTA_MAILBOX_DONE;
}

bool Mailbox::exchange_alone(const void* request, void* reply, int64_t timeout_ns, const uint64_t* control) {
  const std::lock_guard<std::mutex> turn(turn_);
  const uint64_t* from = send(request, 0);
  for (int64_t waited = 0; waited < timeout_ns && !is_set(control); waited += kSliceNs)
    if (rta_mailbox_wait(from, static_cast<uint32_t*>(reply), reply_words_, sequence_, kSliceNs) == RTA_MAILBOX_DONE)
      return true;
  return false;
}

void Mailbox::last(uint32_t command) {
  const std::vector<uint32_t> zeros(static_cast<size_t>(x_numbers()));
  nb::gil_scoped_release release;
  const std::lock_guard<std::mutex> turn(turn_);
  send(zeros.data(), command);
}

int64_t Mailbox::echo(int64_t messages, int64_t timeout_ns) {
  nb::gil_scoped_release release;
  for (int64_t i = 0; i < messages; ++i) {
    const uint32_t number = ++echoed_;
    if (rta_mailbox_echo(requests_ + (number & 1) * (request_words_ + commands_), request_words_,
                         replies_ + (number & 1) * reply_words_, reply_words_, number, timeout_ns) != RTA_MAILBOX_DONE)
      return i;
  }
  return messages;
}

MailboxStep::MailboxStep(nb::object mailbox, nb::object x, nb::object y, uint64_t control, int64_t timeout_ns,
                         nb::object otherwise)
    : owner_(mailbox),
      otherwise_(otherwise),
      box_(nb::cast<Mailbox*>(mailbox)),
      x_(x, box_->x_numbers()),
      y_(y, box_->reply_words()),
      control_(reinterpret_cast<const uint64_t*>(control)),
      timeout_ns_(timeout_ns) {
  if (!control_) throw nb::value_error("no control block");
}

void MailboxStep::refuse(const char* what) const {
  otherwise_(what);
  throw std::runtime_error(what);  // it was to raise
}

void MailboxStep::operator()() const {
  if (!in_place()) refuse("moved");
  if (forked()) refuse("forked");
  if (ended())
    otherwise_("ended");
  else if (!box_->exchange(x_.data(), y_.data(), timeout_ns_, 0))
    refuse("no answer");
}

int64_t MailboxStep::time(nb::handle out, int64_t start, int64_t stop, int64_t deadline) const {
  return rta_timer::time_native(*this, out, start, stop, deadline);
}

void add_mailbox(nb::module_& m) {
  const auto exchange = [](Mailbox& box, uint64_t request, uint64_t reply, int64_t timeout_ns, uint32_t command) {
    return box.exchange(reinterpret_cast<const void*>(request), reinterpret_cast<void*>(reply), timeout_ns, command);
  };
  nb::class_<Mailbox>(m, "Mailbox", "Messages to a persistent kernel on a GPU, by address.")
      .def(nb::init<uint64_t, int64_t, uint64_t, int64_t, bool, bool, int64_t, float, int32_t, std::vector<float>>(),
           nb::arg("requests"), nb::arg("request_words"), nb::arg("replies"), nb::arg("reply_words"),
           nb::arg("commands") = false, nb::arg("mapped") = false, nb::arg("numbers") = 0, nb::arg("inverse") = 1.0f,
           nb::arg("zero_point") = 0, nb::arg("factors") = std::vector<float>())
      .def("exchange", exchange, nb::arg("request"), nb::arg("reply"), nb::arg("timeout_ns"), nb::arg("command") = 0)
      .def("restart", &Mailbox::restart, "For a kernel that starts anew: the next message is the first.")
      .def_prop_ro("number", &Mailbox::number, "Of the latest message.")
      .def_prop_rw("command", &Mailbox::pending, &Mailbox::set_pending, "What the next message orders; then 0 again.")
      .def("order", &Mailbox::order, nb::arg("bits"), "What the next message orders beside what it orders already.")
      .def("withdraw", &Mailbox::withdraw, nb::arg("bits"), "Takes an order back; False where it was sent.")
      .def("last", &Mailbox::last, nb::arg("command"), "A message that nobody answers, for a kernel that is to end.")
      .def("echo", &Mailbox::echo, nb::arg("messages"), nb::arg("timeout_ns"));
  nb::class_<MailboxStep>(m, "MailboxStep", "A kernel's mailbox bound to its tensors: call it for one exchange.")
      .def(nb::init<nb::object, nb::object, nb::object, uint64_t, int64_t, nb::object>(), nb::arg("mailbox"),
           nb::arg("x"), nb::arg("y"), nb::arg("control"), nb::arg("timeout_ns"), nb::arg("otherwise"))
      .def("__call__", &MailboxStep::operator())
      .def("time", &MailboxStep::time, nb::arg("out"), nb::arg("start"), nb::arg("stop"), nb::arg("deadline"));
  add_mailbox_loop(m);
}

}  // namespace rta_torch
