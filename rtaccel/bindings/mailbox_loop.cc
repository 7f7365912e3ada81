// A thread that makes a bound exchange again and again, without the GIL: how many answers a kernel gives beside others.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "_system/os.h"
#include "bindings/mailbox.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

class MailboxLoop;
std::vector<MailboxLoop*> running;  // touched with the GIL alone

class MailboxLoop {
 public:
  MailboxLoop(nb::object step, int core) : owner_(step), step_(nb::cast<const MailboxStep*>(step)), core_(core) {}
  MailboxLoop(const MailboxLoop&) = delete;
  ~MailboxLoop() { end(); }

  void start() {
    if (thread_.joinable()) throw std::runtime_error("this loop runs already: stop() it first");
    if (step_->forked()) step_->refuse("forked");
    if (!step_->in_place()) step_->refuse("moved");
    if (step_->mailbox().looped.exchange(true)) throw std::runtime_error("another MailboxLoop has this mailbox");
    answered_ = 0;
    failed_ = stop_ = false;
    go_ = core_ < 0;
    pinned_ = 0;
    thread_ = std::thread([this] { run(); });
    running.push_back(this);
    while (core_ >= 0 && pinned_ == 0) std::this_thread::yield();
    if (pinned_ < 0) {
      end();
      throw nb::value_error("no such core for this process");
    }
    go_ = true;
  }

  int64_t stop() {
    end();
    return answered_;
  }

  bool failed() const { return failed_; }
  int64_t answered() const { return answered_; }

  // The exchange that is under way is finished: a message without its answer would leave a mailbox that nobody can use.
  // Called with the GIL, which is free meanwhile: the other side may be Python.
  void end() {
    stop_ = true;
    std::thread ending = std::move(thread_);
    if (!ending.joinable()) return;
    if (step_->forked()) {  // the thread is the parent's
      ending.detach();
    } else {
      nb::gil_scoped_release release;
      ending.join();
    }
    step_->mailbox().looped = false;
    running.erase(std::remove(running.begin(), running.end(), this), running.end());
  }

 private:
  void run() {
    if (core_ >= 0) pinned_ = rta::os::pin(core_) == 0 ? 1 : -1;
    while (!go_ && !stop_) std::this_thread::yield();
    while (!stop_) {
      if (step_->ended() || !step_->exchange_alone()) {
        failed_ = true;
        return;
      }
      answered_.store(answered_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
  }

  nb::object owner_;  // keeps the storages too, though a tensor moves on
  const MailboxStep* step_;
  int core_;
  std::thread thread_;
  std::atomic<bool> go_{false}, stop_{false}, failed_{false};
  std::atomic<int> pinned_{0};  // 1, or -1 where this process has no such core
  std::atomic<int64_t> answered_{0};
};

void end_all() {
  const std::vector<MailboxLoop*> all = running;
  for (MailboxLoop* loop : all) loop->end();
}

}  // namespace

void add_mailbox_loop(nb::module_& m) {
  nb::class_<MailboxLoop>(m, "MailboxLoop", "A thread that makes a MailboxStep again and again, without the GIL.")
      .def(nb::init<nb::object, int>(), nb::arg("step"), nb::arg("core") = -1)
      .def("start", &MailboxLoop::start)
      .def("stop", &MailboxLoop::stop, "Ends the thread; how many of its calls were answered.")
      .def_prop_ro("answered", &MailboxLoop::answered, "So far.")
      .def_prop_ro("failed", &MailboxLoop::failed,
                   "Whether it ended by itself: no answer in time, or a kernel that ends.");
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&end_all));
}

}  // namespace rta_torch
