// The functions of an integer stage, over blocks of int64.
#pragma once

#include <cstdint>

#include "_common/checks.h"
#include "_common/whole_numbers.h"

namespace rta {

enum class Whole {
  copy,
  neg,
  abs,
  sign,
  bitwise_not,
  logical_not,
  truth,
  wrap32,
  add,
  sub,
  mul,
  floor_divide,
  trunc_divide,
  remainder,
  fmod,
  minimum,
  maximum,
  lt,
  le,
  gt,
  ge,
  eq,
  ne,
  bitwise_and,
  bitwise_or,
  bitwise_xor,
  logical_and,
  logical_or,
  logical_xor,
  where,
  kCount
};

static const char* const kWholeNames[] = {
    "copy",       "neg",         "abs",         "sign",         "bitwise_not",  "logical_not", "truth", "wrap32",
    "add",        "sub",         "mul",         "floor_divide", "trunc_divide", "remainder",   "fmod",  "minimum",
    "maximum",    "lt",          "le",          "gt",           "ge",           "eq",          "ne",    "bitwise_and",
    "bitwise_or", "bitwise_xor", "logical_and", "logical_or",   "logical_xor",  "where"};

static inline int operands_of(Whole function) { return function < Whole::add ? 1 : function < Whole::where ? 2 : 3; }

static inline int64_t divided(Whole function, int64_t a, int64_t b, const Outside& outside) {
  if (b == 0) {
    outside.note(0);
    return 0;
  }
  const bool quotient = function == Whole::floor_divide || function == Whole::trunc_divide;
  if (b == -1) return quotient ? static_cast<int64_t>(0 - static_cast<uint64_t>(a)) : 0;  // INT64_MIN / -1 traps
  const int64_t q = a / b, r = a % b;
  const bool below = r != 0 && (r < 0) != (b < 0);
  switch (function) {
    case Whole::floor_divide: return q - below;
    case Whole::trunc_divide: return q;
    case Whole::remainder: return below ? r + b : r;
    default: return r;
  }
}

// Divisions of numbers of 31 bits by others than 0, in double: its quotient, rounded, never reaches the next whole
// number.
template <class Body>
static inline void divided_narrow(const int64_t* x, const int64_t* y, int64_t* __restrict to, int64_t n, Body body) {
  for (int64_t k = 0; k < n; ++k) {
    const int32_t a = static_cast<int32_t>(x[k]), b = static_cast<int32_t>(y[k]);
    const int32_t q = static_cast<int32_t>(static_cast<double>(a) / static_cast<double>(b)), r = a - q * b;
    const int32_t below = r != 0 && (r ^ b) < 0;
    to[k] = body(q, r, b, below);
  }
}

static inline void divided_all(Whole function, const int64_t* x, const int64_t* y, int64_t* __restrict to, int64_t n,
                               const Outside& outside) {
  int64_t zeros = 0;
  for (int64_t k = 0; k < n; ++k) zeros += y[k] == 0;
  if (zeros || !within_bits(x, n, 30) || !within_bits(y, n, 30)) {
    for (int64_t k = 0; k < n; ++k) to[k] = divided(function, x[k], y[k], outside);
    return;
  }
  using I = int32_t;
  switch (function) {
    case Whole::floor_divide: return divided_narrow(x, y, to, n, [](I q, I, I, I below) { return q - below; });
    case Whole::trunc_divide: return divided_narrow(x, y, to, n, [](I q, I, I, I) { return q; });
    case Whole::remainder: return divided_narrow(x, y, to, n, [](I, I r, I b, I below) { return r + (below ? b : 0); });
    default: return divided_narrow(x, y, to, n, [](I, I r, I, I) { return r; });
  }
}

template <class Body>
static inline void each_whole(int64_t n, int64_t* __restrict to, Body body) {
  for (int64_t k = 0; k < n; ++k) to[k] = body(k);
}

// to[k] = function(x[k], y[k], z[k]). outside: notes a division by zero.
static inline void apply_whole(Whole function, const int64_t* x, const int64_t* y, const int64_t* z, int64_t* to,
                               int64_t n, const Outside& outside) {
  const auto u = [](int64_t v) { return static_cast<uint64_t>(v); };
  const auto w = [](uint64_t v) { return static_cast<int64_t>(v); };
  switch (function) {
    case Whole::copy: return each_whole(n, to, [&](int64_t k) { return x[k]; });
    case Whole::neg: return each_whole(n, to, [&](int64_t k) { return w(0 - u(x[k])); });
    case Whole::abs: return each_whole(n, to, [&](int64_t k) { return x[k] < 0 ? w(0 - u(x[k])) : x[k]; });
    case Whole::sign: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] > 0} - int64_t{x[k] < 0}; });
    case Whole::bitwise_not: return each_whole(n, to, [&](int64_t k) { return ~x[k]; });
    case Whole::logical_not: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] == 0}; });
    case Whole::truth: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] != 0}; });
    case Whole::wrap32:
      return each_whole(n, to,
                        [&](int64_t k) { return int64_t{static_cast<int32_t>(static_cast<uint32_t>(u(x[k])))}; });
    case Whole::add: return each_whole(n, to, [&](int64_t k) { return w(u(x[k]) + u(y[k])); });
    case Whole::sub: return each_whole(n, to, [&](int64_t k) { return w(u(x[k]) - u(y[k])); });
    case Whole::mul: return each_whole(n, to, [&](int64_t k) { return w(u(x[k]) * u(y[k])); });
    case Whole::floor_divide:
    case Whole::trunc_divide:
    case Whole::remainder:
    case Whole::fmod: return divided_all(function, x, y, to, n, outside);
    case Whole::minimum: return each_whole(n, to, [&](int64_t k) { return x[k] < y[k] ? x[k] : y[k]; });
    case Whole::maximum: return each_whole(n, to, [&](int64_t k) { return x[k] > y[k] ? x[k] : y[k]; });
    case Whole::lt: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] < y[k]}; });
    case Whole::le: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] <= y[k]}; });
    case Whole::gt: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] > y[k]}; });
    case Whole::ge: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] >= y[k]}; });
    case Whole::eq: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] == y[k]}; });
    case Whole::ne: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] != y[k]}; });
    case Whole::bitwise_and: return each_whole(n, to, [&](int64_t k) { return x[k] & y[k]; });
    case Whole::bitwise_or: return each_whole(n, to, [&](int64_t k) { return x[k] | y[k]; });
    case Whole::bitwise_xor: return each_whole(n, to, [&](int64_t k) { return x[k] ^ y[k]; });
    case Whole::logical_and: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] != 0 && y[k] != 0}; });
    case Whole::logical_or: return each_whole(n, to, [&](int64_t k) { return int64_t{x[k] != 0 || y[k] != 0}; });
    case Whole::logical_xor: return each_whole(n, to, [&](int64_t k) { return int64_t{(x[k] != 0) != (y[k] != 0)}; });
    case Whole::where: return each_whole(n, to, [&](int64_t k) { return x[k] != 0 ? y[k] : z[k]; });
    case Whole::kCount: return;
  }
}

}  // namespace rta
