// What functions.def is made of, over the vectors S: fixed sequences of operations, the same bits on every instruction
// set and with every C library. Polynomials are fitted for the least relative error over their interval.
#pragma once

#include "_expression/elementary/basic.h"
#include "_expression/elementary/circular.h"
#include "_expression/elementary/error.h"
#include "_expression/elementary/exponential.h"
#include "_expression/elementary/gamma.h"
#include "_expression/elementary/hyperbolic.h"
#include "_expression/elementary/inverse.h"
#include "_expression/elementary/logarithm.h"
#include "_expression/elementary/power.h"
