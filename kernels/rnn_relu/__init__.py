"""nn.RNN with relu: what `kernels/recurrent` computes, with one gate that is the new state."""
