"""Complex tensors of a graph as pairs of real ones, before any operator is chosen: kernels compute real numbers alone.

`rewrite` walks the graph and puts real calls in the place of those that read or give complex numbers. What each call means for
pairs stands in `arithmetic` (elementwise, products, movement), `systems` (equations, inverses), `fourier`
(transforms) and `frames` (short-time transforms). A
transform is one call of the graph, `transform`, which an operator computes; `matrices` does for lengths that it does not take.
"""
