"""Benchmarks of streams: one time step a call."""
