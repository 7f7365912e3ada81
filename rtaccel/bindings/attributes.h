// The attributes of a stage as the native core reads them, from a Python dict.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "_core/rta_plan.h"

namespace rta_torch {

// Whole numbers, floats, texts, and tensors as (address, dtype, elements). `texts` holds what the result points to.
std::vector<rta_attr> attributes(nanobind::dict given, std::vector<std::string>& texts);

}  // namespace rta_torch
