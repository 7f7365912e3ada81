"""Statistics of latencies: bounds of quantiles, where a run becomes steady, and the effective sample size of dependent calls.

Samples go in and figures come out; nothing here reads a clock.
"""
