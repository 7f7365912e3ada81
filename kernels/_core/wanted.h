// What a build for one model (rtaccel pack) compiles: only what its plan needs. RTA_WANTED is then a header that the
// packer wrote; without it everything is wanted. What was left out is refused where a stage is made, never skipped.
//
//   RTA_WANTS(op, word)     the operator's kernels of that name or weights' dtype, or a form (deploy/wanted.py)
//   RTA_WANTS_KERNEL(isa, op, stem)  the kernel of that stem for that set: the sets that a model takes differ by
//   operator RTA_WANTS_ACTIVATION(n) the activation function of that name RTA_WANTS_TILE(lanes, most, vectors)  of
//   dense weights: tiles of so many vectors of outputs, where whole ones have
//                           `most`
//   RTA_WANTS_END(int8, lanes, most, vectors)  of such tiles: an end for int8 outputs, or for float32 ones
//   RTA_WANTS_PAIRS(lanes, most, pairs)  of int4 weights: tiles of so many pairs of vectors of outputs
//   RTA_MOST_SAMPLES        of a call; RTA_MOST_ROWS: rows that a stage with dense or recurrent weights has in one
//   RTA_WANTS_FAR_WEIGHTS  whether a plan may have more packed weights than a second-level cache holds
//   RTA_WANTS_THREADS       whether a plan may have more than one thread
//   RTA_ONCE                before a function that makes a stage: small rather than fast in such a build
#pragma once

#ifdef RTA_WANTED
#include RTA_WANTED
#define RTA_ONCE [[gnu::cold]]
#else
#include <cstdint>
#define RTA_WANTS(op, word) true
#define RTA_WANTS_KERNEL(isa, op, stem) true
#define RTA_WANTS_ACTIVATION(name) true
#define RTA_WANTS_TILE(lanes, most, vectors) true
#define RTA_WANTS_END(int8, lanes, most, vectors) true
#define RTA_WANTS_PAIRS(lanes, most, pairs) true
#define RTA_MOST_SAMPLES INT64_MAX
#define RTA_MOST_ROWS INT64_MAX
#define RTA_WANTS_FAR_WEIGHTS true
#define RTA_WANTS_THREADS true
#define RTA_ONCE
#endif
