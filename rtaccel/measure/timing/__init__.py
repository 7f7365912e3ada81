"""The timed call: its inner loop, what a call does to its inputs, and calls whose work runs on a CUDA device."""
