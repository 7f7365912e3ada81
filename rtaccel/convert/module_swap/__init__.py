"""Layers of a model swapped in place for those of rtaccel.nn, where that makes them faster, and back again.

Data: nn.Module -> candidates (eligibility) -> quantized layers (rebuild, benchmark) -> the same nn.Module and a report.
"""
