// In a build for one model (rtaccel pack) only what its plan needs is compiled. RTA_WANTED is then a header that
// defines RTA_WANTS(op, word): whether the operator's kernels of that name, or for weights of that dtype, are among it.
#pragma once

#ifdef RTA_WANTED
#include RTA_WANTED
#else
#define RTA_WANTS(op, word) true
#endif
