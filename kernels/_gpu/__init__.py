"""How GPU kernels are declared, built ahead, stored, loaded, launched and checked, and what all of them share.

Data: a Specialisation or CudaKernel -> a cubin (from the store, Triton or NVRTC) -> loaded once -> launch(grid, **arguments).
"""
