"""How a program that leaves calls to torch runs: a list of calls without arguments, made once for each batch.

`torch_call` binds one call of torch to the tensors it reads and writes. `binder` walks the steps of a program once and binds
each of them. `schedule` keeps what it made for the last batches. `bound_calls` is for a caller who reuses buffers.
"""
