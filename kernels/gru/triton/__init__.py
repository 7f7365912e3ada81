"""GRU in Triton: what `kernels/recurrent/triton` computes, with three gates."""
