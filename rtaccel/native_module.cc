#include <nanobind/nanobind.h>
extern "C" int rta_abi_version();
NB_MODULE(_native, m) { m.def("abi_version", &rta_abi_version); }
