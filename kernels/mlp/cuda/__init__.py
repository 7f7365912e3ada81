"""A chain of linear layers in CUDA C++, persistent, with all weights in registers and shared memory of one multiprocessor."""
