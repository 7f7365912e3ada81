"""Recursive least squares on a GPU: one step of an online linear model in UD form. On a CPU it is rtaccel.online.RLSHead."""
