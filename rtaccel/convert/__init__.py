"""From a torch model to a program of stages, and layers swapped in place.

frontend/ exports the model to a graph of nodes; patterns/ say which operator a call becomes; quantization/ finds ranges and how a
layer is computed under a scheme; passes/ fuse nodes and make stages; module_swap/ and pruning/ change a model's own layers.
Here: what puts them together, for a whole model (lower, build_graph, batch_mode), for a stream, and for a saved state.
"""
