"""LSTM in Triton: what `kernels/recurrent/triton` computes, with four gates."""
