"""Linear with what stands around it in one kernel: the rows' quantization before it, a residual after it. On GPUs."""
