// A model from a file, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <memory>

#include "rta_model.h"

namespace rta_model_py {

// An open model. While a loop or a batcher runs it on a thread of its own, other calls are refused.
class Opened {
 public:
  rta_model* get() const { return model_.get(); }
  void refuse_looped() const {
    if (looped.load(std::memory_order_relaxed)) [[unlikely]]
      raise_looped();
  }

  mutable std::atomic<bool> looped{false};

 protected:
  struct Close {
    void operator()(rta_model* model) const { rta_model_close(model); }
  };
  std::unique_ptr<rta_model, Close> model_;

 private:
  [[noreturn]] static void raise_looped();
};

void add_model(nanobind::module_& m);

}  // namespace rta_model_py
