"""LayerNorm and RMSNorm over the columns of each row, with residual add and int8 output."""
