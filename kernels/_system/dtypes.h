// What each dtype is called, and how many bytes an element of it takes: the one table, by the numbers of rta_dtype.
// Files that are compiled for one instruction set each ask stage.h, where nothing has a body.
#pragma once

#include <cstdint>

#include "_core/rta_plan.h"

namespace rta {

struct DtypeFacts {
  char name[9];
  int8_t bytes;
};

constexpr DtypeFacts kDtypes[] = {{"float32", 4}, {"int8", 1},     {"int64", 8},   {"int32", 4},
                                  {"uint8", 1},   {"bfloat16", 2}, {"float16", 2}, {"int16", 2}};

static_assert(sizeof kDtypes / sizeof *kDtypes == RTA_INT16 + 1, "a row for each dtype");

constexpr int64_t element_bytes(rta_dtype dtype) { return kDtypes[dtype].bytes; }

}  // namespace rta
