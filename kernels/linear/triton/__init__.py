"""Linear layers in Triton: GEMV for few rows, tensor cores for many, in every format of weights."""
