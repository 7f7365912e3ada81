extern "C" __attribute__((visibility("default"))) int rta_abi_version() { return 1; }
