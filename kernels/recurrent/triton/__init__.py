"""Recurrent stacks in Triton: a window or a time step in one launch, in both directions, or persistent."""
