"""Float32 layers of recurrent stacks in CUDA C++, on a CPU and by their machine code."""
