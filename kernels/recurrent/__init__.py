"""What LSTM and GRU share: layout of a stage, reference, cases, the C++ stage; triton/ and cuda/ have the GPU's kernels.

lstm/ and gru/ declare the operators and say what differs: gates and cell.
"""
