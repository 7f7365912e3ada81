"""A recurrent stack in CUDA C++, persistent, with all weights in registers and shared memory."""
