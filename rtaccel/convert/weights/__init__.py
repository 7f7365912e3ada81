"""What becomes of a weight matrix, given second moments of its inputs: which numbers stay, how they are rounded.

It knows no graph and no module.
"""
