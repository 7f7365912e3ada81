// The freshest value, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "rta_latest.h"

namespace rta_torch {

// A slot with its memory; views of its buffers hold the memory, not the object.
class LatestSlot {
 public:
  rta_latest* core() const { return slot_.get(); }

 protected:
  std::shared_ptr<rta_latest> slot_;
};

// The slot of a Python object, or an exception where it is closed.
rta_latest* latest_of(nanobind::handle slot);

void add_latest(nanobind::module_& m);
void add_latest_soak(nanobind::module_& m);

}  // namespace rta_torch
