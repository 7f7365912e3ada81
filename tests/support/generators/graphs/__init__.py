"""Random graphs of every operator: each node is drawn from the tables of this folder, and its reference runs in float64.

program.py -> what a graph is, and how it runs, with noise or without; pointwise.py, reductions.py, movement.py, layers.py,
matrices.py -> its nodes; check.py -> many graphs in one compiled model, held against float64, and the first wrong node named.
"""
