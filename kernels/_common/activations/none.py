"""none: t."""

from rtaccel.kernels._common.activations.row import Row

ROW = Row(reference=lambda t, parameter: t, triton="t", numba="t", homogeneous=True)
