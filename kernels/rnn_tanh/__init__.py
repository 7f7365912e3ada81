"""nn.RNN with tanh: what `kernels/recurrent` computes, with one gate that is the new state."""
