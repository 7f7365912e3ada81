"""Convolutions in Triton: over windows, grouped, and streams on a persistent kernel."""
