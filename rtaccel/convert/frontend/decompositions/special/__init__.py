"""Special functions of single numbers as polynomials, roots, exponentials and logarithms.

Each polynomial was fitted to torch's own function in float64, with the largest relative error (or error, where it has zeros) as
small as it gets, in a variable that goes from -1 to 1; float32 rounds more than the fit leaves.
"""
